"""A method and a study of one's own, in one file outside the packages.

    python -m ablate show ./examples/my_study.py:smoothing
    python -m ablate run ./examples/my_study.py:smoothing

The method: a perceptron with one hidden layer, trained by SGD with momentum on label-smoothed cross entropy.
Source of the smoothing: Szegedy et al., Rethinking the Inception Architecture (arXiv 1512.00567), section 7.
Deviations: none known of the loss; network and data are this example's own.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch.nn import functional

from search_spaces.study import Arm, Block, Contrast, Outcome, Scale, Source, Study
from trainables.config import check_types, require
from trainables.datasets import Data, Images
from trainables.protocol import Diverged, Epoch, Method, State
from trainables.seeding import torch_stream


@dataclass(frozen=True, kw_only=True)
class Config:
    """What can be varied."""

    hidden: int = 64
    """Units of the hidden layer."""
    epochs: int = 30
    batch: int = 64
    """Images per step."""
    learning_rate: float = 0.05
    """SGD's, constant."""
    momentum: float = 0.9
    smoothing: float = 0.1
    """Probability mass that the target spreads over all classes. Section 7: 0.1."""

    def __post_init__(self) -> None:
        check_types(self)
        require(self.hidden >= 1, self, "hidden", "at least 1")
        require(self.epochs >= 1, self, "epochs", "at least 1")
        require(self.batch >= 1, self, "batch", "at least 1")
        require(self.learning_rate > 0, self, "learning_rate", "above 0")
        require(0 <= self.momentum < 1, self, "momentum", "in [0, 1)")
        require(0 <= self.smoothing < 1, self, "smoothing", "in [0, 1)")


def train(config: Config, data: Data, *, seed: int, device: str, resume: State | None = None) -> Iterator[Epoch]:
    """Yields after each epoch, with everything that a continued run needs in its state."""
    x_NF, labels_N = flat(data.train, device)
    test_x, test_labels = flat(data.test, device)
    network = perceptron(x_NF.shape[1], config.hidden, len(data.classes), seed).to(device)
    optimizer = torch.optim.SGD(network.parameters(), lr=config.learning_rate, momentum=config.momentum)
    order = torch_stream(seed, "order")
    first = 0
    if resume is not None:
        network.load_state_dict(resume["network"])
        optimizer.load_state_dict(resume["optimizer"])
        order.set_state(resume["order"])
        first = resume["epoch"]
    for epoch in range(first + 1, config.epochs + 1):
        total = torch.zeros((), device=device)
        for chosen in torch.randperm(len(x_NF), generator=order).to(device).split(config.batch):
            loss = functional.cross_entropy(network(x_NF[chosen]), labels_N[chosen], label_smoothing=config.smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(chosen)
        mean = float(total) / len(x_NF)
        if mean != mean:
            raise Diverged(f"the loss is not finite after epoch {epoch}")
        with torch.no_grad():
            right = network(test_x).argmax(dim=1) == test_labels

        def state(epoch: int = epoch) -> State:
            return {
                "epoch": epoch,
                "network": network.state_dict(),
                "optimizer": optimizer.state_dict(),
                "order": order.get_state(),
            }

        yield Epoch(epoch, {"loss": mean, "accuracy": float(right.float().mean())}, state)


def flat(images: Images, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, features) in [0, 1] and (N,) labels, on the device."""
    pixels = torch.tensor(images.pixels, dtype=torch.float32, device=device) / 255
    return pixels.flatten(start_dim=1), torch.tensor(images.labels, device=device)


def perceptron(features: int, hidden: int, classes: int, seed: int) -> torch.nn.Sequential:
    """One hidden layer, its weights drawn from the stream "init" as U(-b, b) with b = 1 / sqrt(fan in)."""
    generator = torch_stream(seed, "init")
    network = torch.nn.Sequential(torch.nn.Linear(features, hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, classes))
    with torch.no_grad():
        for layer in (network[0], network[2]):
            bound = layer.in_features**-0.5
            for parameter in layer.parameters():
                parameter.uniform_(-bound, bound, generator=generator)
    return network


PERCEPTRON = Method(train, Config)

METHODS = {"perceptron": PERCEPTRON}
"""Where the study finds its method."""

BASE = Config()

smoothing = Study(
    name="smoothing",
    question="Does label smoothing help a small perceptron on scikit-learn's digits?",
    source=Source(paper="Rethinking the Inception Architecture, arXiv 1512.00567", where="section 7"),
    claim="Smoothing gained about 0.2 points on ImageNet.",
    method="perceptron",
    arms=(
        Arm(name="none", config=replace(BASE, smoothing=0.0), label="no smoothing"),
        Arm(name="published", config=BASE, label="0.1, as published"),
        Arm(name="strong", config=replace(BASE, smoothing=0.4), label="0.4"),
    ),
    baseline="none",
    outcome=Outcome(metric="accuracy", label="accuracy"),
    contrasts=(
        Contrast(arm="published", reference="none", margin=0.005),
        Contrast(arm="strong", reference="none", margin=0.005),
    ),
    scales=(
        Scale(
            name="smoke",
            blocks=tuple(Block(dataset="digits-closed", split=0, seed=seed) for seed in range(2)),
            settings={"epochs": 2, "hidden": 8},
            seconds=0.2,
        ),
        Scale(
            name="laptop",
            blocks=tuple(Block(dataset="digits-closed", split=0, seed=seed) for seed in range(8)),
            seconds=1.0,
            note="Eight seeds on one split of 1,797 small images: about this network on these digits, no more.",
        ),
    ),
)
