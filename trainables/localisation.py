"""Where a classifier looks for the object: boxes around its class activation maps, against annotated ones. One epoch.

Paper: R-Mix, arXiv 2212.04875, section 4.2 and Table 5, by the protocol of Co-Mixup (arXiv 2102.03065). Maps: Zhou et
al., Learning Deep Features for Discriminative Localization (arXiv 1512.04150). Repository: snu-mllab/Co-Mixup,
comix-localization; R-Mix has no code for it. In the fields below [P] is printed, [C] read in that code, [D] ours.

    M_c = sum_d W_cd A_d                map of class c, from the last feature maps A and the weights W of the last layer
    logit_c = mean over pixels of M_c + b_c

The map is summed over 3 x 3 of its own pixels, zeros around it; upsampled bicubically to the image; moved to 0..1; cut
to whole levels of 255; pixels above a quarter of the largest level are taken; of the connected parts (diagonal
neighbours belong together) the one whose outline encloses most has the box. It is right where its intersection over
union with any annotated box is at least a half.

What is measured:

* `localisation`: share of images whose class is right and, of the class answered, whose box is right [C]: Table 5;
* `localisation_known`: share whose box is right, by the map of the true class, whatever the answer;
* `localisation_right`: of the images answered correctly, the share whose box is right; 0 where there are none;
* `localisation_whole`: what `localisation` would be with the whole image for a box, whatever the map;
* `localisation_best`: the highest `localisation_known` over `THRESHOLDS`, chosen on the test images: a threshold that
  suits one method's maps need not suit another's (Choe et al., arXiv 2001.07437);
* `box_iou`: mean intersection over union, by the map of the true class.

Deviations:
1. The code's intersection of boxes that are apart in both directions is positive; here it is 0.
2. A map that is the same everywhere has the first pixel for a box, as there where nothing is above the threshold; the
   code divides by zero.
3. Of outlines that enclose equally much the one that begins highest counts; in the code the order is OpenCV's.
4. The code evaluates the middle 224 of 256 pixels of ImageNet's images, and rounds true boxes down to whole pixels;
   here images are the whole middle square, resized, as they are everywhere, and boxes are not rounded.

Shapes: B images, D channels of the last feature maps, h x w pixels of them, H x W of the images, K classes, M boxes, T
thresholds.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainables import cam, classification, judged, loop
from trainables.cam import Last
from trainables.config import ConfigError, check_types, require
from trainables.data_protocols import DataSpec
from trainables.datasets import Data
from trainables.protocol import Epoch, Needed, State

Largest = Literal["outline", "pixels"]
Bytes = NDArray[np.uint8]
Floats = NDArray[np.floating]
THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(1, 20))
"""Shares of the largest level that `localisation_best` chooses from."""
SHOWN = 6
"""Images whose maps and boxes are shown."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Whose maps, and how a box is made of one."""

    network: Needed
    """The trial that trains the classifier; its final state holds 'network' (a description) and 'weights'."""
    threshold: float = 0.25
    """Share of the largest level above which pixels are taken. [C]"""
    smoothing: int = 3
    """Pixels of the map, a side, that are summed; 1: none. [C]"""
    largest: Largest = "outline"
    """Which connected part has the box: whose outline encloses most [C], holes too, or that of most pixels."""
    overlap: float = 0.5
    """Intersection over union from which on a box is right. [C]"""

    def __post_init__(self) -> None:
        check_types(self)
        cam.check_needed(self.network, "network")
        require(0 < self.threshold < 1, self, "threshold", "above 0 and below 1")
        require(0 < self.overlap <= 1, self, "overlap", "above 0 and at most 1")
        require(self.smoothing % 2 == 1 and self.smoothing > 0, self, "smoothing", "odd and at least 1")


def check(config: Config, data: DataSpec, needed: Mapping[str, DataSpec]) -> None:
    """Refuses, before anything runs, data without boxes, and networks for other images.

    Raises:
        ConfigError: the data are not asked for boxes, then no image has any; or they have other channels or classes
            than those that the network is trained on.
    """
    del config
    if not data.boxes:
        raise ConfigError(
            f"localisation is measured against boxes, and the data {data.protocol!r} are opened without: say "
            "data={'boxes': True} in the study's scale. Data that have none are refused then."
        )
    judged.check_classes(data, needed)


def train(
    config: Config, data: Data, *, seed: int, device: str, resume: State | None = None, network: State
) -> Iterator[Epoch]:
    """Localises objects on the test images by another trial's classifier; yields one epoch.

    Args:
        config: how.
        data: the protocol's data, with boxes.
        seed: not used: nothing here is random.
        device: where the network runs.
        resume: a state of this method; it was finished then, so nothing is yielded.
        network: final state of the needed trial.

    Raises:
        ConfigError: test images without boxes.
        ValueError: a state that describes no classifier, or one that does not fit the data.
    """
    del seed
    if resume is not None:
        return
    check(config, data.spec, {})
    if data.test.boxes is None:
        raise ConfigError(f"the test images of {data.spec.protocol!r} have no boxes to measure localisation against.")
    count = len(data.test.labels)
    rows = np.linspace(0, count - 1, min(SHOWN, count)).round().astype(int)
    with loop.repeatable(device):
        found = locate(config, cam.last(config.network, network, data, device), data, device, rows)
    arrays = {
        "box_images": np.array(data.test.pixels[rows]),
        "box_maps": found.levels_RHW,
        "box_found": found.boxes_N4[rows],
        "box_true": np.array(data.test.boxes[rows]),
    }
    yield Epoch(1, measures(config, found), lambda: {"epoch": 1}, lambda: arrays)


@dataclass(frozen=True)
class Located:
    """What was found on the test images. Overlaps are intersections over union with the best of the true boxes."""

    right_N: NDArray[np.bool_]
    """Whether the class answered is the true one."""
    boxes_N4: Floats
    """By the maps of the classes answered, as fractions."""
    answered_N: Floats
    """Overlap of that box."""
    known_N: Floats
    """Overlap of the box by the map of the true class."""
    known_NT: Floats
    """The same at each of `THRESHOLDS`."""
    whole_N: Floats
    """Overlap of the whole image."""
    levels_RHW: Bytes
    """Maps of the classes answered, of the chosen images."""


@torch.no_grad()
def locate(config: Config, end: Last, data: Data, device: str, rows: NDArray[np.integer]) -> Located:
    """Boxes on all test images, `judged.BATCH` at a time; maps of the images numbered `rows` are kept."""
    assert data.test.boxes is not None, "checked before"
    parts = []
    for number, (x_BCHW, labels_B) in enumerate(classification.batches(data.test, device, judged.BATCH)):
        here = slice(number * judged.BATCH, number * judged.BATCH + len(labels_B))
        kept = rows[(rows >= here.start) & (rows < here.stop)] - here.start
        parts.append(_located(config, end, x_BCHW, labels_B, data.test.boxes[here], kept))
    names = [field.name for field in fields(Located)]
    return Located(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def _located(
    config: Config, end: Last, x_BCHW: Tensor, labels_B: Tensor, true_BM4: Floats, kept: NDArray[np.integer]
) -> Located:
    """The same on a batch."""
    size = (x_BCHW.shape[2], x_BCHW.shape[3])
    maps_BDhw = end.maps(x_BCHW)
    answers_B = cam.logits(end, maps_BDhw).argmax(1)
    answered_BHW, known_BHW = (
        levels(cam.upscaled(cam.class_maps(end, maps_BDhw, classes_B), size, config.smoothing))
        for classes_B in (answers_B, labels_B)
    )
    sides = np.array([size[1], size[0], size[1], size[0]])

    def found(levels_BHW: Bytes, threshold: float) -> Floats:
        boxes = [box(levels_HW, threshold, config.largest) for levels_HW in levels_BHW]
        return np.asarray(np.array(boxes, dtype=np.float64) / sides)

    boxes_B4 = found(answered_BHW, config.threshold)
    return Located(
        (answers_B == labels_B).cpu().numpy(),
        boxes_B4,
        overlap(boxes_B4, true_BM4),
        overlap(found(known_BHW, config.threshold), true_BM4),
        np.stack([overlap(found(known_BHW, threshold), true_BM4) for threshold in THRESHOLDS], axis=1),
        overlap(np.broadcast_to([0.0, 0.0, 1.0, 1.0], boxes_B4.shape), true_BM4),
        answered_BHW[kept],
    )


def levels(cam_BHW: Tensor) -> Bytes:
    """Maps of 0..1 in whole levels of 255, rounded down."""
    return (255 * cam_BHW).clamp(0, 255).to(torch.uint8).cpu().numpy()


def box(levels_HW: Bytes, threshold: float, largest: Largest = "outline") -> tuple[int, int, int, int]:
    """Left, top, right and bottom edge of the largest connected part above a share of the highest level.

    Args:
        levels_HW: a map.
        threshold: the share; the level that it comes to is rounded down.
        largest: by the area inside its outline, or by its pixels.
    """
    from scipy import ndimage

    above_HW = levels_HW > int(threshold * float(levels_HW.max()))
    numbered_HW, count = ndimage.label(above_HW, np.ones((3, 3)))
    if not count:
        return 0, 0, 1, 1
    parts = ndimage.find_objects(numbered_HW)
    if count == 1:
        best = 0
    elif largest == "pixels":
        best = int(np.bincount(numbered_HW.ravel())[1:].argmax())
    else:
        best = int(np.argmax([inside_outline(numbered_HW[part] == number) for number, part in enumerate(parts, 1)]))
    rows, columns = parts[best]
    return columns.start, rows.start, columns.stop, rows.stop


def inside_outline(part_HW: NDArray[np.bool_]) -> float:
    """Area of the polygon through the centres of a connected part's outermost pixels, holes included.

    Of each square between four neighbouring centres it encloses all where the four are inside, half where three are.
    """
    from scipy import ndimage

    filled_HW = ndimage.binary_fill_holes(part_HW).astype(np.int64)
    corners_HW = filled_HW[:-1, :-1] + filled_HW[:-1, 1:] + filled_HW[1:, :-1] + filled_HW[1:, 1:]
    return float((corners_HW == 4).sum() + (corners_HW == 3).sum() / 2)


def overlap(boxes_N4: Floats, true_NM4: Floats) -> Floats:
    """Intersection over union of each image's box with that of its true ones where it is highest, (N,)."""
    one_N14, two_NM4 = boxes_N4[:, None].astype(np.float64), true_NM4.astype(np.float64)
    low_NM2 = np.maximum(one_N14[..., :2], two_NM4[..., :2])
    high_NM2 = np.minimum(one_N14[..., 2:], two_NM4[..., 2:])
    common_NM = np.prod((high_NM2 - low_NM2).clip(min=0), axis=2)
    one_N1, two_NM = (np.prod(each[..., 2:] - each[..., :2], axis=2) for each in (one_N14, two_NM4))
    shares_NM = np.nan_to_num(common_NM / (one_N1 + two_NM - common_NM))
    return np.asarray(shares_NM.max(1))


def measures(config: Config, found: Located) -> dict[str, float]:
    """What the module's text lists, and 'accuracy'."""
    least, right_N = config.overlap, found.right_N
    boxed_N = found.answered_N >= least
    return {
        "accuracy": float(right_N.mean()),
        "localisation": float((right_N & boxed_N).mean()),
        "localisation_known": float((found.known_N >= least).mean()),
        "localisation_right": float(boxed_N[right_N].mean()) if right_N.any() else 0.0,
        "localisation_whole": float((right_N & (found.whole_N >= least)).mean()),
        "localisation_best": float((found.known_NT >= least).mean(0).max()),
        "box_iou": float(found.known_N.mean()),
    }
