"""Synthetic studies and frames for the tests of tables, figures and reports: drawn from a seed, never measured."""

import json
import math

import numpy as np
import pandas as pd

from analysis.frame import EPOCH_KEYS, TRIAL_COLUMNS, Frame
from search_spaces.study import Arm, Block, Contrast, Outcome, Published, Scale, Source, Study

HOSTILE = "<script>alert(1)</script> & 50% of $x_i$ {~^#\\} \"q\" 'a' | `b` *c* [d](http://e)"
"""Text that HTML, LaTeX, Markdown or Matplotlib's mathematics would read as markup."""


def study(
    arms: int = 4, blocks: int = 5, *, hostile: bool = False, factors: bool = False, equivalence: bool = True
) -> Study:
    """A study of `arms` arms at scales laptop and paper."""
    names = [f"layer_{index}" for index in range(1, arms + 1)]
    labels = [HOSTILE if hostile and index == 1 else f"map of layer {index + 1}" for index in range(arms)]
    grid = [{"p": str(0.1 * (1 + i // 2)), "k": str(2 ** (1 + i % 2))} if factors else {} for i in range(arms)]
    listed = tuple(Block(dataset="digits", split=index % 5, seed=index) for index in range(blocks))
    return Study(
        name="sample_layers",
        question=HOSTILE if hostile else "Does it matter which layer the map is taken from?",
        source=Source(paper="A paper, 2024", where="Table 4"),
        method="sample",
        arms=tuple(
            Arm(name=name, label=label, config={"layers": index + 1, "width": 64}, factors=level)
            for index, (name, label, level) in enumerate(zip(names, labels, grid, strict=True))
        ),
        baseline=names[0],
        scales=(
            Scale(
                name="laptop", blocks=listed, settings={"width": 16}, note="Digits of 8 x 8 pixels, a small network."
            ),
            Scale(name="paper", blocks=(*listed, Block(dataset="cifar10", seed=0)), settings={"width": 64}),
        ),
        outcome=Outcome(metric="auroc", label="AUROC"),
        secondary=(Outcome(metric="loss", label="loss", higher_is_better=False, unit=1.0),),
        contrasts=tuple(
            Contrast(arm=name, reference=names[0], claim="equivalence" if equivalence else "difference", margin=0.01)
            for name in names[1:]
        ),
        published=tuple(
            Published(
                arm=name, dataset="digits", metric="auroc", value=93.0 + 0.1 * index, where=f"Table 4, row {index}"
            )
            for index, name in enumerate(names)
        ),
        claim="No significant change.",
    )


def frame(of: Study, *, epochs: int = 6, failed: int = 0, effect: float = 0.004, seed: int = 7) -> Frame:
    """Every arm on every block of the laptop scale; arm number i is `effect` * i above the baseline."""
    random = np.random.default_rng(seed)
    scale = of.scale("laptop")
    levels = {block.name: random.normal(0.9, 0.02) for block in scale.blocks}
    trials, rows = [], []
    for order, block in enumerate(scale.blocks):
        for index, arm in enumerate(of.arms):
            lost = order < failed and index == len(of.arms) - 1
            final = levels[block.name] + effect * index + random.normal(0, 0.003)
            trial = f"{order:08x}{index:08x}"
            trials.append(_trial(of, arm.name, block, trial, lost, epochs))
            for epoch in range(1, (2 if lost else epochs) + 1):
                rising = final - 0.2 * math.exp(-4 * epoch / epochs) + random.normal(0, 0.002) * (epoch < epochs)
                keys = ["sample_layers", "laptop", arm.name, block.name, block.dataset, block.split, block.seed, trial]
                rows.append([*keys, epoch, 0.5, rising, 1 - rising])
    return Frame(
        pd.DataFrame(trials, columns=list(TRIAL_COLUMNS)),
        pd.DataFrame(rows, columns=[*EPOCH_KEYS, "seconds", "auroc", "loss"]),
    )


def _trial(of: Study, arm: str, block: Block, trial: str, lost: bool, epochs: int) -> dict[str, object]:
    return {
        "study": of.name,
        "scale": "laptop",
        "arm": arm,
        "block": block.name,
        "dataset": block.dataset,
        "split": block.split,
        "seed": block.seed,
        "trial": trial,
        "method": of.method,
        "config": json.dumps(dict(of.arm(arm).config) | {"width": 16}, sort_keys=True),
        "data": json.dumps({"protocol": block.dataset, "split": block.split}, sort_keys=True),
        "state": "failed" if lost else "done",
        "reason": "diverged" if lost else "",
        "error": f"Diverged: loss is nan {HOSTILE}" if lost else "",
        "epochs": 2 if lost else epochs,
        "data_digest": "d" * 64,
        "code_digest": "c" * 64,
        "commit": "a" * 40,
        "dirty": False,
        "device": "cpu",
        "threads": 1,
        "torch": "2.15",
        "attempts": 1,
        "seconds": 3.0 + len(arm) + 0.1 * block.seed + [one.name for one in of.arms].index(arm) + 1,
        "started": "2024-05-01T10:00:00+00:00",
        "ended": "2024-05-01T10:01:00+00:00",
        "host": "laptop",
    }
