"""METHODS: name -> how one run trains. A new method is one file beside this one and one line here.

A method of a user's own needs neither: a study's file may hold a dict METHODS too, and an installed package can
announce methods under the entry point group 'ablate.methods'.
"""

from collections.abc import Mapping
from importlib.metadata import entry_points

from trainables import (
    adautomix,
    detection,
    dimension,
    gradmix,
    greg,
    judged,
    knn_ood,
    knn_osr,
    localisation,
    margin_scores,
    margins,
    ood_radius,
    ood_scores,
    origin,
    pretraining,
    probes,
    rlmix,
    rmix,
    spread,
    stress,
    transfer,
)
from trainables.config import ConfigError, nearest
from trainables.protocol import Method

METHODS: dict[str, Method] = {
    "adautomix": Method(adautomix.train, adautomix.Config),
    "dimension": Method(dimension.train, dimension.Config, judged.check_images),
    "gradmix": Method(gradmix.train, gradmix.Config),
    "greg": Method(greg.train, greg.Config, greg.check),
    "knn_ood": Method(knn_ood.train, knn_ood.Config, detection.check),
    "knn_osr": Method(knn_osr.train, knn_osr.Config, judged.check_images),
    "localisation": Method(localisation.train, localisation.Config, localisation.check),
    "margin_scores": Method(margin_scores.train, margin_scores.Config),
    "margins": Method(margins.train, margins.Config),
    "ood_radius": Method(ood_radius.train, ood_radius.Config, detection.check),
    "ood_scores": Method(ood_scores.train, ood_scores.Config, detection.check),
    "pretraining": Method(pretraining.train, pretraining.Config),
    "probes": Method(probes.train, probes.Config, judged.check_images),
    "rlmix": Method(rlmix.train, rlmix.Config),
    "rmix": Method(rmix.train, rmix.Config),
    "spread": Method(spread.train, spread.Config, judged.check_images),
    "stress": Method(stress.train, stress.Config, stress.check),
    "transfer": Method(transfer.train, transfer.Config, judged.check_images),
}
GROUP = "ablate.methods"
"""Entry points of this group are methods: name -> a `Method`."""


def find(name: str, file: str = "") -> Method:
    """The method of that name: of the study's own file, of this catalogue, or of an installed package.

    Args:
        name: the method's name.
        file: `Study.origin`; empty for a study of the catalogue.

    Raises:
        ConfigError: an unknown name, with the nearest known one; a name that means two methods, since an id holds the
            name alone; something that is no `Method`.
        OriginError: the file cannot be imported.
    """
    own: Mapping[str, Method] = getattr(origin.module(file), "METHODS", {}) if file else {}
    if name in own and name in METHODS and own[name] != METHODS[name]:
        raise ConfigError(f"{file} names its method {name!r} like one of the catalogue. Give it a name of its own.")
    announced = {point.name: point for point in entry_points(group=GROUP)}
    if name in own:
        method = own[name]
    elif name in METHODS:
        method = METHODS[name]
    elif name in announced:
        method = announced[name].load()
    else:
        known = sorted({*own, *METHODS, *announced})
        where = f" {file} may define it in a dict METHODS." if file else ""
        raise ConfigError(f"{name!r} is no method.{nearest(name, known)} There are: {', '.join(known)}.{where}")
    if not isinstance(method, Method):
        raise ConfigError(f"the method {name!r} is a {type(method).__name__}: make it a trainables.protocol.Method.")
    return method
