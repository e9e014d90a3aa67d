"""Tuning studies: what is suggested, what goes on, and that both follow from study and results alone."""

from dataclasses import replace

import optuna
import pandas as pd
import pytest

from ablate import records, schedule, staleness, tuning
from ablate.driver import run
from ablate.execution import Options
from ablate.home import Home
from ablate.log import Log, ledger, read
from ablate.plan import plan
from analysis.frame import VOLATILE
from search_spaces import catalogue
from search_spaces.study import SHORT, Contrast, Parameter, Study, StudyError, config_fields
from tests.ablate import walks
from trainables.protocol import Needed

COUNT = 9
WHOLE = plan(walks.tuned(COUNT), "smoke")


def local(home, **more):
    return Options(home=home, local=True, **more)


def trained(home, whole=WHOLE, **more):
    return run(whole, local(home, **more)).plan


def frame_of(home, whole):
    made = records.frame(home, whole)
    drop = [*VOLATILE, "commit", "dirty"]
    return [table.drop(columns=drop, errors="ignore") for table in (made.trials, made.epochs)]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    home = Home(tmp_path_factory.mktemp("tuned"))
    return home, trained(home)


def configurations(whole):
    return {arm.name.removesuffix(SHORT) for arm in whole.study.arms}


def test_as_many_configurations_as_declared_are_tried_the_baseline_first(done):
    _, whole = done
    assert whole.study.arms[0].name == "paper"
    assert configurations(whole) == {"paper", *(f"t{number:02d}" for number in range(1, COUNT))}
    values = {tuple(whole.study.tuning.values(arm.config).values()) for arm in whole.study.arms}
    assert len(values) == COUNT
    assert all(-1 <= drift <= 1 and 1e-4 <= pause <= 1e-2 for drift, pause in values)


def test_a_short_run_has_its_share_of_the_epochs_and_the_better_half_goes_on(done):
    home, whole = done
    entries = ledger(home)
    reached = {
        arm.name: [
            [row["metrics"]["auroc"] for row in entries[cell.trial].record.epochs]
            for cell in whole.cells
            if cell.arm == arm.name
        ]
        for arm in whole.study.arms
    }
    short = {name: rows for name, rows in reached.items() if name.endswith(SHORT)}
    assert {len(row) for rows in short.values() for row in rows} == {2}
    assert {len(row) for name, rows in reached.items() if name not in short for row in rows} == {6}
    means = [max(sum(pair) / 2 for pair in zip(*rows, strict=True)) for rows in short.values()]
    names = [name.removesuffix(SHORT) for name in short]
    # The first round has none before it. The second is held against the median of the first's four at epoch 2.
    last = [sum(row[-1] for row in rows) / 2 for rows in short.values()]
    median = sum(sorted(last[:4])[1:3]) / 2
    expected = set(names[:4]) | {name for name, best in zip(names[4:], means[4:], strict=True) if best >= median}
    assert {name for name in reached if name not in short} == {"paper"} | expected
    assert expected != set(names), "something was pruned"


def test_a_sweep_interrupted_anywhere_comes_to_the_same_configurations_and_numbers(done, tmp_path):
    home, whole = done
    other = Home(tmp_path)
    ends = 0

    def stop(event):
        nonlocal ends
        ends += event.kind == "ended"
        if event.kind == "ended" and ends % 7 == 0:
            raise KeyboardInterrupt

    result = run(WHOLE, local(other), stop)
    attempts = 1
    while result.interrupted:
        result = run(WHOLE, local(other), stop)
        attempts += 1
    assert attempts > 3
    assert [arm.name for arm in result.plan.study.arms] == [arm.name for arm in whole.study.arms]
    for one, two in zip(frame_of(home, whole), frame_of(other, result.plan), strict=True):
        pd.testing.assert_frame_equal(one, two, check_exact=True)


@pytest.mark.slow
def test_ray_comes_to_the_same(done, tmp_path):
    home, whole = done
    other = Home(tmp_path)
    result = run(WHOLE, Options(home=other))
    for one, two in zip(frame_of(home, whole), frame_of(other, result.plan), strict=True):
        pd.testing.assert_frame_equal(one, two, check_exact=True)


def test_a_finished_search_trains_nothing_more(done):
    home, whole = done
    before = home.log(whole.sweep).read_bytes()
    again = run(WHOLE, local(home))
    assert again.trained == 0
    assert again.plan.cells == whole.cells
    assert home.log(whole.sweep).read_bytes() == before


def test_the_log_knows_the_study_as_it_grew(done):
    home, whole = done
    launches = [line for _, line in read(home.log(whole.sweep)) if line["kind"] == "sweep"]
    sizes = [len(line["study"]["arms"]) for line in launches]
    assert sizes == sorted(set(sizes))
    assert Study.from_plain(launches[-1]["study"]).tuning == whole.study.tuning
    assert sizes[-1] == len(whole.study.arms)


def test_more_configurations_later_keep_what_was_tried(done, tmp_path):
    home, whole = done
    more = plan(walks.tuned(COUNT + 4), "smoke")
    records_ = {ident: entry.record for ident, entry in ledger(home).items()}
    larger = tuning.grown(more, records_)
    assert [cell.trial for cell in larger.cells][: len(whole.cells) // 2] == [
        cell.trial for cell in whole.cells[: len(whole.cells) // 2]
    ]
    assert len(configurations(larger)) == COUNT + 4


def test_chosen_arms_are_just_those(done):
    home, _ = done
    narrow = plan(replace(walks.tuned(COUNT), tuning=None, name="narrow"), "smoke")
    assert tuning.grown(narrow, {ident: entry.record for ident, entry in ledger(home).items()}) is narrow


def test_random_sampling_without_pruning_has_no_short_runs(tmp_path):
    whole = trained(Home(tmp_path), plan(walks.tuned(4, sampler="random", pruner="none", round=2), "smoke"))
    assert [arm.name for arm in whole.study.arms] == ["paper", "t01", "t02", "t03"]


def test_suggestions_are_those_of_optunas_own_study_told_the_same():
    spec = walks.tuned(COUNT).tuning
    told = [({"drift": 0.1 * k, "pause": 0.001 + 0.001 * k}, (float(k), -float(k))) for k in range(6)]
    ours = schedule.suggest(spec, (True, False), told, 2)
    sampler = optuna.samplers.TPESampler(seed=6000, n_startup_trials=4, multivariate=True, constant_liar=True)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    space = {
        "drift": optuna.distributions.FloatDistribution(-1, 1),
        "pause": optuna.distributions.FloatDistribution(1e-4, 1e-2, log=True),
    }
    for params, values in told:
        study.add_trial(optuna.trial.create_trial(values=values, params=params, distributions=space))
    theirs = [study.ask(space).params for _ in range(2)]
    for one, other in zip(ours, theirs, strict=True):
        assert one == pytest.approx(other, rel=1e-5)


def test_the_search_finds_a_peak_better_than_chance():
    spec = replace(walks.tuned(COUNT).tuning, parameters=(Parameter(name="drift", low=-1.0, high=1.0),))

    def found(sampler: str) -> float:
        told = [({"drift": -0.9}, (-(1.6**2),))]
        while len(told) < 33:
            for params in schedule.suggest(replace(spec, sampler=sampler), (True,), told, 4):
                told.append((params, (-((params["drift"] - 0.7) ** 2),)))
        return sum(values[0] for _, values in told[17:]) / 16

    assert found("tpe") > found("random") / 4


def test_optunas_storage_has_the_search_with_its_ranges_and_both_objectives(done, tmp_path):
    home, whole = done
    url = f"sqlite:///{tmp_path}/optuna.db"
    assert schedule.project(home, whole.sweep, url) == len(whole.trials)
    assert schedule.project(home, whole.sweep, url) == 0
    study = optuna.load_study(study_name=whole.sweep, storage=url)
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    for trial in study.trials:
        assert trial.distributions["drift"] == optuna.distributions.FloatDistribution(-1.0, 1.0)
        last = ledger(home)[trial.user_attrs["trial"]].record.epochs[-1]["metrics"]
        assert trial.values == [last["auroc"], last["loss"]]


@pytest.mark.parametrize(("higher", "goes_on"), [(True, True), (False, False)])
def test_what_goes_on_depends_on_the_direction(higher, goes_on):
    earlier = [(0.1, 0.2), (0.1, 0.3), (0.2, 0.4)]
    assert schedule.promising(earlier, (0.5, 0.6), higher_is_better=higher) is goes_on
    assert schedule.promising(earlier[:1], (0.5, 0.6), higher_is_better=higher)


def test_a_failed_configuration_is_told_as_failed_and_the_search_goes_on(tmp_path):
    study = walks.tuned(5, pruner="none", round=2)
    failing = replace(study, arms=(replace(study.arms[0], config=replace(study.arms[0].config, fail="error")),))
    result = run(plan(failing, "smoke"), local(Home(tmp_path)))
    assert len(result.failed) == 10
    assert configurations(result.plan) == {"paper", "t01", "t02", "t03", "t04"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parameters": ()}, "no parameters"),
        ({"parameters": (Parameter(name="drfit", low=-1, high=1),)}, "Did you mean 'drift'"),
        ({"parameters": (Parameter(name="epochs", low=1, high=3),)}, "no float field"),
        ({"parameters": (Parameter(name="drift", low=1, high=-1),)}, "low must lie below high"),
        ({"parameters": (Parameter(name="drift", low=-1, high=1, log=True),)}, "above 0"),
        ({"parameters": (Parameter(name="drift", low=0.5, high=1),)}, "leaves its baseline's 0.0 out"),
        ({"objectives": ("loss",)}, "name the outcome's metric"),
        ({"objectives": ("auroc", "los")}, "Did you mean 'loss'"),
        ({"configurations": {}}, "how many configurations scale 'smoke'"),
        ({"round": 0}, "round is at least 1"),
        ({"short": 1.0}, "short within"),
    ],
)
def test_a_tuning_that_contradicts_itself_is_refused(changes, message):
    study = walks.tuned(COUNT)
    with pytest.raises(StudyError, match=message):
        replace(study, tuning=replace(study.tuning, **changes))


def test_tuning_declares_no_contrast():
    study = walks.tuned(COUNT)
    with pytest.raises(StudyError, match="proves nothing"):
        replace(
            study,
            arms=(*study.arms, replace(study.arms[0], name="b")),
            contrasts=(Contrast(arm="b", reference="paper"),),
        )


def test_a_search_that_would_shorten_what_it_starts_from_is_refused():
    study = walks.tuned(COUNT)
    arm = replace(study.arms[0], config=walks.Score(network=Needed("walk", walks.Walk())), method="score")
    scale = Parameter(name="scale", low=0.5, high=2.0)
    with pytest.raises(StudyError, match="must have that field"):
        replace(study, arms=(arm,), tuning=replace(study.tuning, parameters=(scale,)))


def test_a_trial_that_will_be_tried_again_leads_the_search_nowhere_else(done, tmp_path):
    _, whole = done
    other, ends = Home(tmp_path), 0

    def stop(event):
        nonlocal ends
        ends += event.kind == "ended"
        if ends == 10:  # the baseline and the first round of short runs
            raise KeyboardInterrupt

    first = run(WHOLE, local(other), stop).plan
    lost = next(cell.trial for cell in first.cells if cell.arm == "t02-short")
    log = Log(other.log(WHOLE.sweep))
    record = replace(ledger(other)[lost].record, state="failed", reason="lost", epochs=())
    log.append("ended", trial=lost, record=record)
    log.close()
    assert [arm.config for arm in trained(other).study.arms] == [arm.config for arm in whole.study.arms]


@pytest.mark.parametrize("more", [{}, {"retry_failed": True}])
def test_what_fails_is_tried_once_a_run_however_often_the_search_grows(tmp_path, more):
    study = walks.tuned(5, pruner="none", round=2)
    failing = replace(study, arms=(replace(study.arms[0], config=replace(study.arms[0].config, fail="memory")),))
    for _ in range(2):
        begun = []
        result = run(
            plan(failing, "smoke"),
            local(Home(tmp_path), retries=0, **more),
            lambda event, begun=begun: begun.append(event.trial) if event.kind == "started" else None,
        )
        assert len(result.failed) == result.trained == len(begun) == len(set(begun)) == 10


def test_what_a_search_tried_beyond_its_study_is_not_superseded():
    study = catalogue.load("greg_tune")
    first = study.arms[0]
    grown = replace(
        study, arms=(first, replace(first, name="t01", config={**config_fields(first.config), "lam_score": 0.5}))
    )
    assert staleness.superseded(plan(grown, "smoke")) == {}
