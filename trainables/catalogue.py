"""METHODS: name -> how one run trains. A new method is one file beside this one and one line here."""

from trainables import gradmix, knn_osr
from trainables.protocol import Method

METHODS: dict[str, Method] = {
    "gradmix": Method(gradmix.train, gradmix.Config),
    "knn_osr": Method(knn_osr.train, knn_osr.Config),
}
