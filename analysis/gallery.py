"""The catalogue of drawings of what trials show: name -> function from exhibits to pictures. One file per family.

A study names the drawings that its methods leave arrays for (`search_spaces.study.Study.figures`). A drawing takes the
arrays it knows by name and passes over runs that lack them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from analysis import localisation_figures, mixing_figures, openset_figures, spread_figures, stress_figures
from analysis.drawing import Picture
from analysis.exhibits import Exhibits
from search_spaces.study import Study

Drawing = Callable[[Exhibits, Study], tuple[Picture, ...]]

DRAWINGS: Mapping[str, Drawing] = {
    "oscr": openset_figures.oscr,
    "angles": openset_figures.angles,
    "features": openset_figures.features,
    "mixes": mixing_figures.mixes,
    "corruptions": stress_figures.corruptions,
    "occlusion": stress_figures.occlusion,
    "reliability": stress_figures.reliability,
    "radii": stress_figures.radii,
    "spread": spread_figures.spread,
    "maps": spread_figures.maps,
    "boxes": localisation_figures.boxes,
}
"""Every name of `search_spaces.study.FIGURES`."""


@dataclass(frozen=True)
class Gallery:
    """What a report shows of its trials."""

    pictures: tuple[Picture, ...]
    notes: tuple[str, ...]
    """What a reader must know of them: which runs show nothing, which files were left out."""


def hang(exhibits: Exhibits, study: Study) -> Gallery:
    """Every picture that the study asks for and these exhibits can fill, not drawn yet."""
    pictures = tuple(picture for name in study.figures for picture in DRAWINGS[name](exhibits, study))
    return Gallery(pictures, (*_gaps(exhibits, pictures), *(f"Left out: {each}." for each in exhibits.unreadable)))


def _gaps(exhibits: Exhibits, pictures: tuple[Picture, ...]) -> tuple[str, ...]:
    showing, done = len(exhibits.shown), exhibits.done
    if not showing:
        return ("No done run left anything to look at. Pictures come from trials' folders in a home.",)
    if not pictures:
        return ("No done run left anything that the study's drawings know.",)
    if showing < done:
        return (f"{showing} of {done} done runs left something to look at; the pictures are of those.",)
    return ()
