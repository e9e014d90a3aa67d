"""Numbers that trials report: pure functions of NumPy arrays, and for each name which direction is better.

Scores are higher for known (in-distribution) images. Every rate is a fraction in [0, 1].

`fpr95_id_positive` and `fpr95_ood_positive` are two conventions of one name; they are different numbers.

Sources: E. Facco et al., Scientific Reports 7 (2017), 12140 (TwoNN); ARPL, iCGY96/ARPL@3ede8b3 `core/evaluation.py`
(the variants called 'arpl'); GradMix, gawainxu/comprehensive_osr@d18b920 `ID.py` and `ood_utils.py`.

Deviations:
1. The intrinsic dimension leaves out points with r1 = 0 or r1 = r2; `ID.py` finds them and keeps them.
2. Ties count one half in `auroc`; ARPL counts them against the method.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trainables.corruption_settings import CORRUPTIONS, EXTRA, SEVERITIES

Floats = NDArray[np.float64]

DETECTION: Mapping[str, bool] = MappingProxyType(
    {"auroc": True, "aupr_in": True, "aupr_out": True, "fpr95_id_positive": False, "fpr95_ood_positive": False}
)
"""What a detector's scores are measured by -> whether higher is better: means over out-of-distribution sets."""
OUTSIDE_SETS = (
    *("near_digits", "far_photos", "near_tinyimagenet", "far_mnist", "far_omniglot", "far_noise"),
    *("far_textures", "far_svhn", "far_places365", "far_lsun_c", "far_lsun_r", "far_isun"),
    *("far_places", "far_inaturalist", "far_sun"),
    "near_cifar100",
)
"""The out-of-distribution sets of all protocols."""
GRADMIX_OOD = ("tnr_at_tpr95", "auroc", "detection_accuracy", "aupr_in", "aupr_out")
"""What GradMix's Table 4 prints of each set; all are better where higher."""
RADII = (0.05, 0.1, 0.25, 0.5)
"""L2 radii, in normalised input, at which robustness is measured."""

ACCURACIES = (
    *("accuracy", "accuracy_top5", "accuracy_teacher_one", "accuracy_teacher_mix"),
    *("accuracy_student_one", "accuracy_student_mix"),
)
"""Of a closed set: of one network, or of a student and its teacher, with a one-hot and a mix head."""
CALIBRATION = ("nll", "ece_10", "ece_15", "ece_adaptive_15", "ece_sorted_10", "brier")
"""Of probabilities; '<name>_scaled' after a temperature."""
DIRECTION: Mapping[str, bool] = MappingProxyType(
    {
        **DETECTION,
        **{f"{name}_{group}": up for name, up in DETECTION.items() for group in ("near", "far")},
        **{f"{name}_{each}": DETECTION[name] for name in ("auroc", "fpr95_id_positive") for each in OUTSIDE_SETS},
        **{f"{name}_{each}": True for name in GRADMIX_OOD for each in OUTSIDE_SETS},
        **{f"auroc_attacked_{r:g}": True for r in RADII},
        **{f"{kind}_at_{r:g}": True for kind in ("certified", "estimated", "searched") for r in RADII},
        **{f"broken_{kind}_{r:g}": False for kind in ("certified", "estimated", "searched") for r in RADII},
        **{f"{name}{rule}": True for name in ACCURACIES for rule in ("", "_best", "_median10")},
        **{f"accuracy_{name}_{severity}": True for name in (*CORRUPTIONS, *EXTRA) for severity in SEVERITIES},
        **{f"drop_{name}": False for name in (*SEVERITIES, *CORRUPTIONS)},
        **{f"accuracy_occluded_{percent}": True for percent in range(0, 100, 10)},
        "accuracy_corrupted": True,
        "accuracy_corrupted_19": True,
        "accuracy_occluded": True,
        "auroc_negative": True,
        "box_iou": True,
        "ccr_1": True,
        "ccr_1e-1": True,
        "ccr_1e-2": True,
        "ccr_1e-3": True,
        "ccr_1e-4": True,
        "ccr_negative_1": True,
        "ccr_negative_1e-1": True,
        "ccr_negative_1e-2": True,
        "ccr_negative_1e-3": True,
        "ccr_negative_1e-4": True,
        "centre_angle": True,
        "confidence_known": True,
        "confidence_negative": True,
        "detection_accuracy": True,
        "drop": False,
        **{f"{name}{scaled}": False for name in CALIBRATION for scaled in ("", "_scaled")},
        "energy_auxiliary": True,
        "energy_id": False,
        "fgsm_error": False,
        "fgsm_error_released": False,
        "flops": False,
        "fpr_floor": False,
        "fpr_floor_negative": False,
        "grad_norm_auxiliary": False,
        "grad_norm_id": False,
        "grad_norm_ood": False,
        "gradient_term": False,
        "hinge_auxiliary": False,
        "hinge_id": False,
        "indicator_auxiliary": True,
        "indicator_id": True,
        "intrinsic_dimension": True,
        "lam_gradient": False,
        "lipschitz_certified": False,
        "lipschitz_estimated": False,
        "lipschitz_searched": False,
        "knn_accuracy": True,
        "knn_accuracy_top5": True,
        "linear_accuracy": True,
        "localisation": True,
        "localisation_best": True,
        "localisation_known": True,
        "localisation_right": True,
        "localisation_whole": True,
        "loss": False,
        "loss_class": False,
        "loss_clean": False,
        "loss_generator": False,
        "loss_score": False,
        "loss_mix": False,
        "loss_norm": False,
        "loss_simclr": False,
        "loss_supcon": False,
        "loss_teacher": False,
        "norm_known": True,
        "norm_known_std": False,
        "norm_negative": False,
        "norm_negative_std": False,
        "norm_negative_tail": False,
        "norm_unknown": False,
        "norm_unknown_std": False,
        "norm_unknown_tail": False,
        "peak_memory_bytes": False,
        "pgd_l2_error": False,
        "pgd_linf_error": False,
        "radius_certified": True,
        "radius_estimated": True,
        "radius_searched": True,
        "reward": True,
        "saturated": False,
        "similarity": True,
        **{f"spread_{t:.1e}": True for t in np.geomspace(1e-5, 1e-3, 9)},
        **{f"spread_of_max_{share}": True for share in (0.1, 0.2, 0.5)},
        "spread": True,
        "temperature": False,
        "theta_known": False,
        "theta_known_skew": False,
        "theta_known_std": False,
        "theta_negative": True,
        "theta_negative_min": True,
        "theta_negative_std": False,
        "theta_unknown": True,
        "theta_unknown_min": True,
        "theta_unknown_std": False,
        "tnr_at_tpr95": True,
        "validation_loss": False,
        "validation_loss_class": False,
        "validation_loss_norm": False,
    }
)
"""Every metric that trials report -> whether higher is better. GradMix reads high dimension as richer features; of
angles and norms (`trainables.margin_scores`) the direction is what their losses aim at; likewise of energies, hinges
and indicators (`trainables.greg`)."""


def auroc(known: ArrayLike, unknown: ArrayLike) -> float:
    """P(score of a known > score of an unknown) + P(equal) / 2: the Mann-Whitney form of the area under the ROC curve.

    Args:
        known: scores (n,).
        unknown: scores (m,).

    Raises:
        ValueError: an empty array, or a score that is not a number.
    """
    positives, negatives = _scores(known, "known"), _scores(unknown, "unknown")
    _, place, counts = np.unique(np.concatenate([positives, negatives]), return_inverse=True, return_counts=True)
    middle_rank = np.cumsum(counts) - (counts - 1) / 2
    n, m = len(positives), len(negatives)
    return float((middle_rank[place[:n]].sum() - n * (n + 1) / 2) / (n * m))


def fpr95_id_positive(known: ArrayLike, unknown: ArrayLike) -> float:
    """Share of unknown images accepted where the share of accepted known ones is closest to 95%, on either side.

    The usual FPR95: known images are the positive ones. Of thresholds that are equally close the lowest counts, and
    none below the lowest known score. As in the code of outlier exposure, and of what was built on it.
    """
    tp, fp = (counts[1:] for counts in _curve(known, unknown))
    complete = int(np.argmax(tp >= tp[-1]))
    recall = tp[complete::-1] / tp[-1]
    return float(fp[complete::-1][np.abs(recall - 0.95).argmin()] / fp[-1])


def fpr95_ood_positive(known: ArrayLike, unknown: ArrayLike) -> float:
    """Share of known images rejected at the first threshold that rejects at least 95% of the unknown ones.

    OpenOOD's and pytorch-ood's FPR95: unknown images are the positive ones. Another number than the above.
    """
    tp, fp = _curve(-_scores(unknown, "unknown"), -_scores(known, "known"))
    return float(fp[np.argmax(tp / tp[-1] >= 0.95)] / fp[-1])


def tnr_at_tpr95(known: ArrayLike, unknown: ArrayLike, variant: Literal["default", "arpl"] = "default") -> float:
    """Share of unknown images rejected at the threshold that keeps 95% of the known ones.

    'default' takes the largest threshold with a true positive rate of at least 0.95. 'arpl' takes, of the points
    nearest to 0.95, the one at the lowest threshold: the pessimistic end of a flat stretch of the curve.
    """
    if variant == "arpl":
        tp, fp = _arpl_curve(known, unknown)
        return float(1 - fp[np.abs(tp / tp[0] - 0.95).argmin()] / fp[0])
    tp, fp = _curve(known, unknown)
    return float(1 - fp[np.argmax(tp / tp[-1] >= 0.95)] / fp[-1])


def detection_accuracy(known: ArrayLike, unknown: ArrayLike) -> float:
    """DTACC: the largest (TPR + TNR) / 2 over all thresholds; both classes weigh the same whatever their sizes."""
    tp, fp = _curve(known, unknown)
    return float(((tp / tp[-1] + 1 - fp / fp[-1]) / 2).max())


def aupr_in(known: ArrayLike, unknown: ArrayLike, form: Literal["step", "arpl"] = "step") -> float:
    """AUIN: area under precision over recall, known images positive.

    'step' is the average precision; 'arpl' the trapezoid rule with end precisions 0.5 (all accepted) and 0 (none).
    """
    if form == "step":
        return _average_precision(*_curve(known, unknown))
    tp, fp = _arpl_curve(known, unknown)
    kept = tp + fp > 0
    precision = np.concatenate([[0.5], tp[kept] / (tp + fp)[kept], [0.0]])
    recall = np.concatenate([[1.0], tp[kept] / tp[0], [0.0]])
    return float(-np.trapezoid(precision, recall))


def aupr_out(known: ArrayLike, unknown: ArrayLike, form: Literal["step", "arpl"] = "step") -> float:
    """AUOUT: the same with unknown images positive and scores negated."""
    if form == "step":
        return _average_precision(*_curve(-_scores(unknown, "unknown"), -_scores(known, "known")))
    tp, fp = _arpl_curve(known, unknown)
    positives, negatives = fp[0] - fp, tp[0] - tp
    kept = positives + negatives > 0
    precision = np.concatenate([[0.0], positives[kept] / (positives + negatives)[kept], [0.5]])
    recall = np.concatenate([[0.0], positives[kept] / fp[0], [1.0]])
    return float(np.trapezoid(precision, recall))


def openness(known_classes: int, all_classes: int, form: Literal["paper", "scheirer"] = "paper") -> float:
    """How open a protocol is: 1 - sqrt(I / S) ('paper'), or 1 - sqrt(2 I / (I + S)) (Scheirer et al.)."""
    ratio = known_classes / all_classes if form == "paper" else 2 * known_classes / (known_classes + all_classes)
    return float(1 - np.sqrt(ratio))


def intrinsic_dimension(points: ArrayLike, fraction: float = 0.9) -> float:
    """TwoNN: the slope through the origin of -log(1 - F) over log(r2 / r1).

    Args:
        points: (n, d). Points with r1 = 0 or r1 = r2 are left out.
        fraction: share of the smallest ratios that the line is fitted to; the last two ratios never count.

    Returns:
        The dimension; NaN when fewer than three points can be used.

    Raises:
        ValueError: a coordinate that is not finite.
    """
    r1, r2 = _two_neighbours(np.asarray(points, dtype=np.float64))
    usable = (r1 > 0) & (r1 < r2)
    mu = np.sort(r2[usable] / r1[usable])
    used = min(int(np.floor(len(mu) * fraction)), len(mu) - 2)
    if used < 1:
        return float("nan")
    x = np.log(mu[:used])
    y = -np.log1p(-np.arange(1, used + 1) / len(mu))
    return float(x @ y / (x @ x))


def legacy_gradmix_ood(known: ArrayLike, unknown: ArrayLike) -> tuple[float, float]:
    """What the released GradMix code prints as (DTACC, TNR). A curiosity: both are wrong, and nothing here uses them.

    Over 500 thresholds it adds up TN and FP without ever resetting them, divides TP by FP + FN and TN by TP + TN, and
    takes the unknown images for positives. Likely why Table 4 pairs a DTACC of 99.81 with an AUROC of 98.7, which
    no ROC curve allows.
    """
    inside, outside = _scores(known, "known"), _scores(unknown, "unknown")
    centre, reach = inside.min(), 2 * outside.mean()
    thresholds = np.linspace(centre - reach, centre + reach, num=500)
    tp = np.array([(outside <= t).sum() for t in thresholds])
    tn = np.cumsum([(inside >= t).sum() for t in thresholds])
    fn = len(outside) - tp
    fp = np.cumsum([(inside < t).sum() for t in thresholds])
    dtacc = max(0.0, float(((tp + tn) / (tp + tn + fn + fp)).max()))
    with np.errstate(divide="ignore", invalid="ignore"):
        tpr = np.where(fp + fn > 0, tp / (fp + fn), np.inf)
        best = int(np.abs(tpr - 0.95).argmin())
        return dtacc, float(tn[best] / (tp[best] + tn[best]))


def _scores(values: ArrayLike, name: str) -> Floats:
    array = np.asarray(values, dtype=np.float64).ravel()
    if array.size == 0:
        raise ValueError(f"there are no {name} scores: at least one known and one unknown image are needed.")
    if np.isnan(array).any():
        raise ValueError(f"{int(np.isnan(array).sum())} of {array.size} {name} scores are not numbers.")
    return array


def _curve(known: ArrayLike, unknown: ArrayLike) -> tuple[Floats, Floats]:
    """Accepted known and unknown images: at an infinite threshold, then at every distinct score downwards."""
    positives, negatives = np.sort(_scores(known, "known")), np.sort(_scores(unknown, "unknown"))
    thresholds = np.unique(np.concatenate([positives, negatives]))[::-1]

    def accepted(scores: Floats) -> Floats:
        return np.concatenate([[0.0], len(scores) - np.searchsorted(scores, thresholds, side="left")])

    return accepted(positives), accepted(negatives)


def _arpl_curve(known: ArrayLike, unknown: ArrayLike) -> tuple[Floats, Floats]:
    """Accepted images while they are rejected one by one from the lowest score; of tied ones the known first."""
    positives, negatives = _scores(known, "known"), _scores(unknown, "unknown")
    is_unknown = np.repeat([0, 1], [len(positives), len(negatives)])
    order = np.lexsort((is_unknown, np.concatenate([positives, negatives])))
    rejected_unknown = np.concatenate([[0.0], np.cumsum(is_unknown[order])])
    rejected = np.arange(len(order) + 1)
    return len(positives) - (rejected - rejected_unknown), len(negatives) - rejected_unknown


def _average_precision(tp: Floats, fp: Floats) -> float:
    return float((np.diff(tp / tp[-1]) * (tp[1:] / (tp[1:] + fp[1:]))).sum())


def _two_neighbours(points_ND: Floats, chunk: int = 1024) -> tuple[Floats, Floats]:
    """Distances to the two nearest other points, (N,) each; in chunks, so that memory grows with N and not N squared.

    Neighbours are found from inner products and then measured by differences: an inner product cannot tell a duplicate
    from a point at 1e-8, and one ratio of 1e8 would bend the fit.
    """
    if not np.isfinite(points_ND).all():
        raise ValueError("the points have coordinates that are not finite.")
    n = len(points_ND)
    if n < 3:
        return np.zeros(n), np.zeros(n)
    centred = points_ND - points_ND.mean(axis=0)
    squares = (centred**2).sum(axis=1)
    candidates = min(8, n - 1)
    nearest = np.empty((n, 2))
    for start in range(0, n, chunk):
        rows = slice(start, min(start + chunk, n))
        squared = squares[None, :] - 2 * centred[rows] @ centred.T
        squared[np.arange(rows.stop - start), np.arange(start, rows.stop)] = np.inf
        ids = np.argpartition(squared, candidates - 1, axis=1)[:, :candidates]
        exact = np.linalg.norm(points_ND[rows, None, :] - points_ND[ids], axis=2)
        nearest[rows] = np.sort(exact, axis=1)[:, :2]
    return nearest[:, 0], nearest[:, 1]
