"""Tables and their printed forms: each number is the findings' own, each text is escaped, LaTeX compiles."""

import csv
import dataclasses
import io
import json
import math
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from analysis import display, facts, figures, report, tables, tidy, typeset, wording
from analysis.contrasts import compare
from analysis.display import Quantity
from analysis.findings import Findings, Interval
from analysis.frame import Frame
from search_spaces.study import Block, Contrast, Outcome, Scale, Study
from tests.analysis import frames, samples


@pytest.fixture(scope="module")
def study() -> Study:
    return samples.study()


@pytest.fixture(scope="module")
def findings(study: Study) -> Findings:
    return compare(samples.frame(study), study)


def number(text: str) -> float:
    return float(text.replace("\N{MINUS SIGN}", "-"))


class TestDisplay:
    points = Quantity("AUROC", 100.0, 2)

    def test_a_fraction_is_shown_in_per_cent(self) -> None:
        assert self.points.name == "AUROC (%)"
        assert self.points.value(0.93456) == "93.46"

    def test_a_difference_has_its_sign_and_zero_has_none(self) -> None:
        assert self.points.difference(0.0123) == "+1.23"
        assert self.points.difference(-0.0123) == "\N{MINUS SIGN}1.23"
        assert self.points.difference(-0.00001) == "0.00"

    def test_what_is_not_finite_is_missing(self) -> None:
        assert self.points.value(math.nan) == display.MISSING
        assert self.points.interval(Interval(0.5, math.nan, math.nan, 0.95, "t")) == display.MISSING
        assert display.seconds(math.inf) == display.MISSING

    @pytest.mark.parametrize(("p", "shown"), [(0.0004, "<0.001"), (0.04962, "0.050"), (1.0, "1.000"), (math.nan, "–")])
    def test_p(self, p: float, shown: str) -> None:
        assert display.p_value(p) == shown

    @pytest.mark.parametrize(
        ("value", "shown"), [(0.004, "4 ms"), (0.5, "0.5 s"), (89.0, "89.0 s"), (90.0, "1.5 min"), (7200.0, "2.0 h")]
    )
    def test_seconds(self, value: float, shown: str) -> None:
        assert display.seconds(value) == shown

    def test_amounts_have_a_prefix(self) -> None:
        assert display.amount(1.8e12, "FLOP") == "1.8 TFLOP"

    def test_margins_are_in_points(self) -> None:
        assert self.points.margin(0.01) == "1 point"
        assert self.points.margin(0.007) == "0.7 points"

    def test_decimals_follow_the_intervals(self, study: Study, findings: Findings) -> None:
        wide = [
            dataclasses.replace(arm, mean=dataclasses.replace(arm.mean, low=0.1, high=0.9)) for arm in findings.arms
        ]
        assert display.quantity(study.outcome, findings.arms, findings.contrasts).decimals == 2
        assert display.quantity(study.outcome, wide).decimals == 1

    def test_listing(self) -> None:
        assert [display.listing("abc"[:n]) for n in range(4)] == ["", "a", "a and b", "a, b and c"]


def test_every_arm_has_its_row(study: Study, findings: Findings) -> None:
    table = tables.arms(findings, study)
    assert len(table.rows) == len(study.arms)
    for row, arm in zip(table.rows, findings.arms, strict=True):
        label, n, mean, interval, sd = row.cells
        assert (label, n) == (arm.label, str(arm.n))
        assert number(mean) == pytest.approx(100 * arm.mean.estimate, abs=0.0051)
        low, high = (number(text) for text in interval.strip("[]").split(", "))
        assert (low, high) == pytest.approx((100 * arm.mean.low, 100 * arm.mean.high), abs=0.0051)
        assert number(sd) == pytest.approx(100 * arm.sd, abs=0.0051)
    assert [row.baseline for row in table.rows] == [arm.name == study.baseline for arm in study.arms]


def test_every_contrast_has_its_row(study: Study, findings: Findings) -> None:
    table = tables.contrasts(findings, study)
    heads = [column.head for column in table.columns]
    assert len(table.rows) == len(study.contrasts)
    for row, contrast in zip(table.rows, findings.contrasts, strict=True):
        cells = dict(zip(heads, row.cells, strict=True))
        assert cells["verdict"].split()[1] == row.word == contrast.verdict.word
        assert number(cells["difference (points)"]) == pytest.approx(100 * contrast.interval.estimate, abs=0.0051)
        assert cells["p, equivalence"] == display.p_value(contrast.p_adjusted)
        assert cells["p, difference"] == display.p_value(contrast.other_p["difference (corrected)"])
        assert cells["margin"] == "±1 point"
        assert cells["n"] == str(len(contrast.blocks))
    assert "arm minus map of layer 1" in table.caption
    assert "against" not in heads


def test_references_are_named_where_they_differ(study: Study) -> None:
    first, second, third = study.contrasts
    several = dataclasses.replace(
        study, contrasts=(first, second, dataclasses.replace(third, reference=study.arms[1].name))
    )
    table = tables.contrasts(compare(samples.frame(several), several), several)
    assert [row.cells[1] for row in table.rows] == ["map of layer 1", "map of layer 1", "map of layer 2"]


def test_every_run_is_in_the_table_of_blocks(study: Study) -> None:
    findings = compare(samples.frame(study, failed=1), study)
    table = tables.blocks(findings, study)
    assert [row.cells[0] for row in table.rows] == [block.name for block in study.scale("laptop").blocks]
    assert table.rows[0].cells[-1] == "failed"
    for row in table.rows[1:]:
        for cell, arm in zip(row.cells[1:], findings.arms, strict=True):
            assert number(cell) == pytest.approx(100 * arm.values[row.cells[0]], abs=0.0051)


def test_settings_show_only_what_differs(study: Study) -> None:
    table = tables.settings(study)
    assert [column.head for column in table.columns] == ["arm", "layers"]
    assert [row.cells[1] for row in table.rows] == ["1", "2", "3", "4"]


def test_further_tests_and_effects_are_all_listed(study: Study, findings: Findings) -> None:
    measures = [row.cells[1] for row in tables.further(findings, study).rows]
    contrast = findings.contrasts[0]
    for name in (*contrast.effects, *(f"p, {name}" for name in contrast.other_p)):
        assert name in measures


def test_published_numbers_keep_their_decimals(study: Study, findings: Findings) -> None:
    table = tables.published(findings, study)
    assert table is not None
    assert [row.cells[3] for row in table.rows] == ["93.0", "93.1", "93.2", "93.3"]
    ours = [number(row.cells[4]) for row in table.rows]
    assert ours == pytest.approx([100 * arm.mean.estimate for arm in findings.arms], abs=0.0051)


def test_differences_on_other_data_than_the_papers_name_it(study: Study) -> None:
    """What the digits gave never stands in a line of CIFAR-10's without saying so."""
    printed = tuple(dataclasses.replace(row, dataset="cifar10") for row in study.published)
    elsewhere = dataclasses.replace(study, published=printed)
    ran = samples.frame(elsewhere)
    found = compare(ran, elsewhere)
    table = tables.published_contrasts(found, elsewhere)
    assert table is not None
    assert {row.cells[2] for row in table.rows} == {"cifar10 (here: digits)"}
    assert "measured here on other data than the paper's (digits)" in wording.agreement(found, elsewhere)
    picture = figures.paper(found, elsewhere)
    assert picture is not None
    assert "(on digits, not on the paper's data)" in picture.caption
    same = compare(ran, study)
    assert "other data" not in wording.agreement(same, study)


class TestWording:
    def test_the_headline_names_every_arm_with_its_word(self, study: Study, findings: Findings) -> None:
        said = wording.headline(findings, study)
        for contrast in findings.contrasts:
            assert tables.labels(study)[contrast.arm] in said
            assert contrast.verdict.word in said

    def test_many_arms_with_one_verdict_are_counted(self) -> None:
        study = samples.study(7, 5, equivalence=False)
        said = wording.headline(compare(samples.frame(study, effect=0.05), study), study)
        assert said == "Against map of layer 1, all 6 arms are better."

    def test_labels_with_punctuation_are_quoted(self) -> None:
        assert wording.quoted("Mixup, alpha = 1") == "“Mixup, alpha = 1”"
        assert wording.quoted("conv4 + conv5") == "“conv4 + conv5”"
        assert wording.quoted("map of layer 1") == "map of layer 1"

    def test_a_single_contrast_gives_its_own_sentence(self, study: Study) -> None:
        one = dataclasses.replace(study, contrasts=study.contrasts[:1])
        findings = compare(samples.frame(one), one)
        assert wording.headline(findings, one) == findings.contrasts[0].verdict.sentence

    def test_what_few_blocks_can_reach_is_said_of_contrasts_that_have_some(self) -> None:
        """A missing reference is no reason to say that no test goes below p = 1."""
        three = frames.small_study(blocks=8)
        whole, holed, lost = frames.sound(three), frames.sound(three), frames.sound(three)
        gone = (holed.trials["arm"] == "a2") & (holed.trials["seed"] > 2)
        holed.trials.loc[gone, ["state", "reason"]] = ("failed", "diverged")
        lost.trials.loc[lost.trials["arm"] == "a2", ["state", "reason"]] = ("failed", "diverged")
        said = [wording.tests(compare(ran, three), three) for ran in (whole, holed, lost)]
        assert ["cannot go below" in text for text in said] == [False, True, False]
        assert "With 3 blocks, as the smallest comparison has, an exact two-sided sign-flip test" in said[1]
        assert "cannot go below p = 0.25" in said[1]

    def test_what_was_not_declared_is_said_to_be_described(self) -> None:
        study = samples.study(factors=True)
        findings = compare(samples.frame(study), study)
        for table in (tables.ranks(findings, study), tables.factors(findings)):
            assert table is not None
            assert table.caption.endswith("Described; the verdicts rest on the declared contrasts.")
        assert "p corrected, intervals not" in tables.contrasts(findings, study).caption

    def test_failures_are_in_the_headline(self, study: Study) -> None:
        said = wording.headline(compare(samples.frame(study, failed=2), study), study)
        assert said.startswith("With no value from 2 of 20 runs: against map of layer 1, ")

    def test_without_contrasts_nothing_is_decided(self, study: Study) -> None:
        none = dataclasses.replace(study, contrasts=())
        assert "nothing is decided" in wording.headline(compare(samples.frame(none), none), none)

    def test_a_small_scale_is_no_replication(self, study: Study, findings: Findings) -> None:
        assert "not a replication of A paper, 2024" in wording.scale_note(findings, study)
        assert "not a replication" not in wording.scale_note(dataclasses.replace(findings, scale="paper"), study)

    def test_a_scale_that_is_gone_is_said(self, study: Study, findings: Findings) -> None:
        assert "no longer has" in wording.scale_note(dataclasses.replace(findings, scale="gone"), study)

    def test_the_tests_say_what_so_few_blocks_can_reach(self, study: Study, findings: Findings) -> None:
        said = wording.tests(findings, study)
        assert "Holm" in said
        assert "p = 0.0625" in said


class TestTerminal:
    def test_columns_stand_under_each_other(self, study: Study, findings: Findings) -> None:
        head, rule, *rows = typeset.text(tables.arms(findings, study)).split("\n")
        ends = [match.end() for match in re.finditer("─+", rule)]
        assert len(rows) == len(study.arms)
        for end, column in zip(ends[1:], tables.arms(findings, study).columns[1:], strict=True):
            assert head[:end].endswith(column.head)

    def test_prose_keeps_to_the_width_and_nothing_controls_the_terminal(self, study: Study) -> None:
        odd = dataclasses.replace(study, question="a\x1b[31mred\nline " * 20)
        shown = tables.terminal(compare(samples.frame(odd), odd), odd, width=60)
        assert "\x1b" not in shown
        assert all(len(line) <= 60 for line in shown.split("\n\n")[0].split("\n"))

    def test_it_says_verdict_arms_warnings_and_scale(self, study: Study, findings: Findings) -> None:
        shown = " ".join(tables.terminal(findings, study).split())
        for expected in (study.question, wording.headline(findings, study), *findings.warnings):
            assert expected in shown
        assert "not a replication" in shown

    def test_columns_that_do_not_fit_are_named(self, study: Study, findings: Findings) -> None:
        shown = typeset.text(tables.contrasts(findings, study), 70).split("\n")
        assert all(len(line) <= 70 for line in shown[:-1])
        assert shown[-1] == "(not shown at this width: p, difference, p, equivalence, n, claim, margin)"
        assert [line.split()[5] for line in shown[2:-1]] == [c.verdict.word for c in findings.contrasts]

    def test_wide_characters_take_two_columns(self) -> None:
        table = typeset.Table("t", "", (typeset.Column("a", "left"), typeset.Column("b")), (typeset.Row(("層", "1")),))
        assert typeset.text(table).split("\n") == ["a   b", "──  ─", "層  1"]


class TestMarkdown:
    def test_every_cell_is_between_its_bars(self, study: Study, findings: Findings) -> None:
        lines = [line for line in tables.markdown(findings, study).split("\n") if line.startswith("|")]
        assert len(lines) == 2 + len(study.arms) + 2 + len(study.contrasts)
        arms = tables.arms(findings, study)
        for line, row in zip(lines[2:], arms.rows, strict=False):
            assert [cell.strip().replace("\\", "") for cell in line.strip("|").split(" | ")] == list(row.cells)

    def test_markup_in_names_is_escaped(self) -> None:
        escaped = typeset.escape_markdown(samples.HOSTILE)
        assert re.search(r"(?<!\\)[|<*`\[$]", escaped) is None


class TestData:
    def test_csv_gives_the_findings_back_in_full(self, study: Study, findings: Findings) -> None:
        text = tidy.as_csv(tidy.records(findings, study))
        rows = list(csv.DictReader(io.StringIO(text)))
        arms = [row for row in rows if row["kind"] == "arm"]
        contrasts = [row for row in rows if row["kind"] == "contrast"]
        assert [float(row["estimate"]) for row in arms] == [arm.mean.estimate for arm in findings.arms]
        assert [float(row["p_adjusted"]) for row in contrasts] == [c.p_adjusted for c in findings.contrasts]
        assert [row["verdict"] for row in contrasts] == [c.verdict.word for c in findings.contrasts]
        assert len([row for row in rows if row["kind"] == "secondary"]) == len(study.arms)

    def test_csv_tells_contrasts_of_several_datasets_apart_and_holds_what_decided(self) -> None:
        blocks = tuple(Block(dataset=name, seed=seed) for name in ("digits", "mnist") for seed in range(4))
        pair = [Contrast(arm="a1", reference="a0", dataset=name, margin=0.05) for name in ("digits", "mnist")]
        two = frames.small_study(scales=(Scale(name="smoke", blocks=blocks),), contrasts=tuple(pair))
        found = compare(frames.sound(two, noise=0.004), two)
        rows = list(csv.DictReader(io.StringIO(tidy.as_csv(tidy.records(found, two)))))
        kept = [row for row in rows if row["kind"] == "contrast"]
        assert [(row["dataset"], row["verdict"]) for row in kept] == [("digits", "equivalent"), ("mnist", "equivalent")]
        assert all(float(row["p_difference"]) == float(row["p_adjusted"]) > 0.05 for row in kept)
        assert all(float(row["p_equivalence"]) <= 0.05 for row in kept), "what the verdict rests on"

    def test_parquet_holds_the_same(self, study: Study, findings: Findings) -> None:
        records = tidy.records(findings, study)
        table = pq.read_table(io.BytesIO(tidy.as_parquet(records)))
        assert table.column_names == list(tidy.RECORD)
        assert json.dumps(table.to_pylist()) == json.dumps(records)


class TestLatex:
    def test_specials_are_escaped(self) -> None:
        assert typeset.escape_latex("50% of a_b & $x$ {#} ~^\\") == (
            r"50\% of a\_b \& \$x\$ \{\#\} \textasciitilde{}\textasciicircum{}\textbackslash{}"
        )

    def test_what_pdflatex_lacks_is_shown_by_its_code(self) -> None:
        assert typeset.escape_latex("é 層") == r"é \texttt{U+5C64}"

    def test_every_number_of_the_tables_is_there(self, study: Study, findings: Findings) -> None:
        text = tables.latex(findings, study)
        for row in tables.arms(findings, study).rows:
            assert " & ".join(typeset.escape_latex(cell) for cell in row.cells) in text
        assert text.count(r"\toprule") == text.count(r"\bottomrule") == 2

    @pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex here: install LaTeX with booktabs")
    @pytest.mark.parametrize("hostile", [False, True])
    def test_it_compiles_as_printed(self, tmp_path: Path, hostile: bool) -> None:
        study = samples.study(hostile=hostile)
        findings = compare(samples.frame(study, failed=1), study)
        (tmp_path / "table.tex").write_text(tables.latex(findings, study), encoding="utf-8")
        (tmp_path / "page.tex").write_text(typeset.LATEX_PAGE, encoding="utf-8")
        done = subprocess.run(
            ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"],
            cwd=tmp_path,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]
        assert (tmp_path / "page.pdf").stat().st_size > 10_000


def test_interquartile_means_stand_in_every_form_where_they_were_computed(study: Study, tmp_path: Path) -> None:
    blocks = tuple(Block(dataset=name, seed=seed) for name in ("digits", "mnist") for seed in range(4))
    several = frames.small_study(scales=(Scale(name="smoke", blocks=blocks),))
    frame = frames.sound(several)
    found = compare(frame, several)
    table = tables.interquartile(found, several)
    assert table is not None
    shown = tables.primary(found, several)
    assert [row.cells for row in table.rows] == [
        (arm, shown.value(mean.estimate), shown.interval(mean)) for arm, mean in found.interquartile.items()
    ]
    value = shown.value(found.interquartile["a1"].estimate)
    assert "middle half" in tables.markdown(found, several)
    page = report.write(frame, several, tmp_path, command="run", provenance={}, findings=found).read_text("utf-8")
    assert f'<td class="right">{value}</td>' in page.partition("middle half")[2]
    kept = [record for record in tidy.records(found, several) if record["kind"] == "interquartile"]
    assert [(each["arm"], each["estimate"], each["n"]) for each in kept] == [
        (arm, mean.estimate, 8) for arm, mean in found.interquartile.items()
    ]
    assert tables.interquartile(compare(samples.frame(study), study), study) is None


def test_marginal_means_are_the_means_of_their_cells(tmp_path: Path) -> None:
    study = samples.study(factors=True)
    frame = samples.frame(study)
    found = compare(frame, study)
    table = tables.marginal(found, study)
    assert table is not None
    assert found.factorial is not None
    shown = tables.primary(found, study)
    first, second = found.factorial.factors
    cells = {name: np.mean(list(arm.values.values())) for name, arm in ((a.arm, a) for a in found.arms)}
    expected = [
        (factor, level, shown.value(float(np.mean([cells[a.name] for a in study.arms if a.factors[factor] == level]))))
        for factor in (first, second)
        for level in dict.fromkeys(arm.factors[factor] for arm in study.arms)
    ]
    assert [row.cells[:3] for row in table.rows] == expected
    page = report.write(frame, study, tmp_path, command="run", provenance={}, findings=found).read_text("utf-8")
    assert table.caption in page


def test_arms_that_wait_for_the_same_blocks_share_a_note(findings: Findings) -> None:
    first, *others = findings.arms
    lost = dataclasses.replace(first, failed={"digits/t0/s0": "diverged"})
    waiting = [dataclasses.replace(arm, pending=("digits/t1/s1", "digits/t2/s2")) for arm in others]
    assert wording.missing([lost, *waiting]) == (
        f"{first.label}: failed on digits/t0/s0 (diverged).",
        f"Not run yet on digits/t1/s1, digits/t2/s2: {display.listing(arm.label for arm in others)}.",
    )
    assert wording.missing(findings.arms) == ()


def test_costs_stand_beside_the_baselines() -> None:
    study = samples.study(3, 4)
    frame = samples.frame(study)
    flops = frame.epochs["arm"].map({"layer_1": 1e12, "layer_2": 2e12, "layer_3": 5e11})
    more = Frame(frame.trials, frame.epochs.assign(flops=flops))
    table = tables.costs(facts.costs(more, study), study)
    heads = ["arm", "time of a run", "× baseline", "compute of a run", "× baseline"]
    assert [column.head for column in table.columns] == heads
    assert [row.cells[4] for row in table.rows] == ["1.00", "2.00", "0.50"]
    seconds = frame.trials.groupby("arm")["seconds"].mean()
    assert [float(row.cells[2]) for row in table.rows] == pytest.approx(list(seconds / seconds["layer_1"]), abs=0.005)
    assert [row.baseline for row in table.rows] == [True, False, False]


def test_costs_without_the_baseline_are_not_set_beside_it() -> None:
    study = samples.study(3, 4)
    frame = samples.frame(study)
    costs = [cost for cost in facts.costs(frame, study) if cost.arm != study.baseline]
    table = tables.costs(costs, study)
    assert [column.head for column in table.columns] == ["arm", "time of a run"]
    assert [len(row.cells) for row in table.rows] == [2, 2]
    assert table.caption.endswith("(smallest to largest).")


def test_costs_over_the_baselines_are_on_the_blocks_of_both() -> None:
    """An arm that has run on the cheap data only is not cheaper."""
    blocks = tuple(Block(dataset=name, seed=seed) for name in ("digits", "mnist") for seed in range(2))
    two = frames.small_study(arms=2, scales=(Scale(name="smoke", blocks=blocks),))
    frame = frames.sound(two)
    frame.trials["seconds"] = [30.0 if dataset == "mnist" else 2.0 for dataset in frame.trials["dataset"]]
    frame.trials.loc[frame.trials["arm"] == "a1", "seconds"] *= 1.5
    unrun = (frame.trials["arm"] == "a1") & (frame.trials["dataset"] == "mnist")
    frame.trials.loc[unrun, "state"] = "pending"
    table = tables.costs(facts.costs(frame, two), two)
    assert [row.cells for row in table.rows] == [
        ("a0", "16.0 s (2.0 s to 30.0 s)", "1.00"),
        ("a1", "3.0 s (3.0 s to 3.0 s)", "1.50"),
    ]


def test_a_difference_that_decides_is_not_shown_as_zero() -> None:
    """The same loss of a thousandth on all blocks, of arms that vary by units."""
    loss = Outcome(metric="auroc", label="loss", higher_is_better=False, unit=1.0)
    two = frames.small_study(arms=2, blocks=8, outcome=loss, contrasts=(Contrast(arm="a1", reference="a0"),))
    frame = frames.sound(two, epochs=1)
    level = np.arange(8) * 1.7 + 100.1
    for arm, values in (("a0", level), ("a1", level + 1e-3)):
        frame.epochs.loc[frame.epochs["arm"] == arm, "auroc"] = values
    found = compare(frame, two)
    assert found.contrasts[0].verdict.word == "worse"
    row = tables.contrasts(found, two).rows[0].cells
    assert number(row[2].lstrip("+")) == pytest.approx(1e-3)


def test_no_p_is_below_the_smallest_that_its_kind_can_reach() -> None:
    """Two one-sided tests of equal arms reach half of what a two-sided test does, so the bound says whose it is."""
    study = frames.small_study(arms=2, blocks=8)
    (contrast,) = compare(frames.identical_arms(study), study).contrasts
    assert contrast.other_p["tost sign-flip"] == contrast.p_attainable / 2 == 2**-8
    shown = dict(row.cells[1:] for row in tables.further(compare(frames.identical_arms(study), study), study).rows)
    assert shown["smallest p of an exact two-sided sign-flip test"] == "0.008"
    assert shown["p, tost sign-flip"] == "0.004"
