"""What networks that GReg and energy training fine-tuned are worth: read by other detectors, and under attack.

Paper: Gradient-Regularized Out-of-Distribution Detection (GReg), arXiv 2404.12368; `greg_posthoc` has the baselines of
its tables, `greg_radius` asks what its Lipschitz analysis promises.

At one size the networks are those of `search_spaces.greg`'s studies.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from search_spaces.greg import (
    ACCURACY,
    APART,
    AUROC,
    COMMON,
    DETECTED,
    FPR,
    LAST,
    SCALES,
    SMOKE,
    UNPUBLISHED,
    own,
    study,
    tuned,
)
from search_spaces.study import Arm, Contrast, Outcome
from trainables import ood_radius, ood_scores, pretraining
from trainables.greg import ENERGY, GREG
from trainables.metrics import RADII
from trainables.protocol import Needed

# --- Detectors read off afterwards -----------------------------------------------------------------------------------

DETECTORS: Mapping[Any, str] = {
    "msp": "MSP",
    "odin": "ODIN",
    "energy": "Energy",
    "react": "ReAct",
    "dice": "DICE",
    "max_logit": "MaxLogit",
}
NETWORKS: Mapping[str, tuple[Needed, str]] = {
    "plain": (Needed("pretraining", pretraining.Config()), "cross-entropy"),
    "energy": (Needed("greg", tuned(ENERGY)), "energy training"),
    "greg": (Needed("greg", tuned(GREG)), "GReg"),
}
POSTHOC = study(
    "greg_posthoc",
    "Do detectors that need no training still help once a network was trained to detect?",
    "baselines of the main tables",
    tuple(
        Arm(
            name=f"{network}_{detector}",
            label=f"{label} by {trained}",
            method="ood_scores",
            config=ood_scores.Config(network=needed, detector=detector),
            factors={"network": network, "detector": detector},
        )
        for network, (needed, trained) in NETWORKS.items()
        for detector, label in DETECTORS.items()
    ),
    "greg_energy",
    method="ood_scores",
    outcome=FPR,
    secondary=DETECTED,
    contrasts=tuple(
        Contrast(arm=f"{network}_{detector}", reference=f"{network}_energy", family=network)
        for network in NETWORKS
        for detector in DETECTORS
        if detector != "energy"
    ),
    notes=(
        UNPUBLISHED,
        *COMMON,
        "Each network is trained once and scored by all detectors. Parameters are the detectors' papers': ODIN at "
        "temperature 1000 with a step of 0.0014, ReAct and DICE at 90%.",
    ),
)

# --- Robustness ------------------------------------------------------------------------------------------------------

SHOWN = tuple(
    outcome
    for r in RADII
    for outcome in (
        Outcome(metric=f"auroc_attacked_{r:g}", label=f"AUROC under attack, r = {r:g}"),
        Outcome(metric=f"estimated_at_{r:g}", label=f"right with an estimated radius of {r:g}"),
        Outcome(metric=f"searched_at_{r:g}", label=f"right with a searched radius of {r:g}"),
        Outcome(metric=f"certified_at_{r:g}", label=f"right with a certified radius of {r:g}"),
        Outcome(metric=f"broken_estimated_{r:g}", label=f"of these, estimates broken at {r:g}", higher_is_better=False),
        Outcome(metric=f"broken_certified_{r:g}", label=f"certificates broken at {r:g}", higher_is_better=False),
    )
)
QUICKLY = replace(SMOKE, settings={**SMOKE.settings, "rows": 6, "steps": 3})
RADIUS = study(
    "greg_radius",
    "Does a flatter energy make the detector harder to fool?",
    "Lipschitz analysis: the radius within which a decision cannot change",
    tuple(
        Arm(name=name, label=label, method="ood_radius", config=ood_radius.Config(network=needed))
        for name, label, needed in (
            *((name, label, needed) for name, (needed, label) in NETWORKS.items()),
            ("two_way", "GReg, two-way sampling", Needed("greg", tuned(replace(GREG, sampling="two_way")))),
            ("paper", "GReg, weight 1 as in the text", Needed("greg", tuned(replace(GREG, reduction="paper")))),
        )
    ),
    "energy",
    method="ood_radius",
    scales=(QUICKLY, *SCALES[1:]),
    outcome=Outcome(metric="auroc_attacked_0.25", label="AUROC under attack, r = 0.25"),
    secondary=(
        AUROC,
        ACCURACY,
        *(each for each in SHOWN if each.metric != "auroc_attacked_0.25"),
        own("radius_estimated", "mean estimated radius", True),
        own("radius_searched", "mean searched radius", True),
        own("radius_certified", "mean certified radius", True),
        own("lipschitz_estimated", "slope at the image"),
        own("lipschitz_searched", "largest slope that was met"),
        own("lipschitz_certified", "bound on all slopes"),
    ),
    claim="The paper proves a radius from a Lipschitz constant and puts the gradient norm in its place.",
    figures=("radii",),
    notes=(
        UNPUBLISHED,
        LAST,
        APART,
        "A gradient norm is a lower bound of the Lipschitz constant, so a radius from it is an estimate and can be "
        "broken; the certified one is sound, and vanishingly short on deep networks. Distances are L2 in normalised "
        "input.",
    ),
)

STUDIES = (POSTHOC, RADIUS)
