"""AdAutoMix: two golden steps of the released code, steps written plainly, who trains whom, properties, bad input."""

import copy
import functools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.trainables.toys import open_set
from tests.trainables.watched import Watched
from trainables import adautomix, augment, mixblock, mixes, teachers, twoheads
from trainables.adautomix import ADAUTOMIX, AUTOMIX, BY_HAND, EQ15, SWIN, Config
from trainables.augment import normalise, to_float
from trainables.config import ConfigError
from trainables.protocol import Diverged

GOLDEN = Path(__file__).parents[1] / "golden" / "mixing"
SMALL = {"width": 4, "epochs": 2, "batch": 8, "ema": 0.5, "ema_end": 0.9}
TINY = Config(**SMALL)
EQUATION = replace(TINY, **EQ15)
BY_HANDS = ("vanilla", "mixup", "cutmix", "saliencymix", "fmix", "resizemix")
ARMS = {
    "official": TINY,
    "official, N = 2": replace(TINY, images=2),
    "official, N = 5": replace(TINY, images=5),
    "eq15": EQUATION,
    "eq15, in turn": replace(EQUATION, updates="alternating", classifier_steps=2, generator_steps=2),
    "cooperative": replace(TINY, generator_objective="cooperative"),
    "automix": replace(AUTOMIX, **SMALL),
    **{mix: replace(BY_HAND, **SMALL, mix=mix) for mix in BY_HANDS},
}


def golden(name: str) -> dict[str, torch.Tensor]:
    with np.load(GOLDEN / f"{name}.npz") as file:
        return {key: torch.from_numpy(np.array(file[key])) for key in file.files}


def close(found, wanted) -> None:
    torch.testing.assert_close(found, wanted.to(found.dtype), atol=1e-5, rtol=0)


# Golden numbers: two steps of the released class, the first adversarial, the second cooperative


def released_trio(g) -> tuple[teachers.Trio, dict[str, torch.Tensor]]:
    """The networks of A2 as they begin, and all their weights and running statistics by the file's names."""
    stages = [
        nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())
        for inputs, outputs, stride in ((3, 6, 2), (6, 6, 2), (6, 8, 1))
    ]
    student = twoheads.TwoHeads(twoheads.Body(stages, twoheads.Pool(), (6, 6, 8)), 4, layer=2)
    trio = teachers.Trio(student, mixblock.MixBlock(6, embed=False, scale=4), {})
    parts = {}
    for whose, network in (("q", trio.student), ("k", trio.teacher)):
        for i, stage in enumerate(network.stages, 1):
            parts[f"backbone_{whose}_c{i}_weight"] = stage[0].weight
            for name in ("weight", "bias", "running_mean", "running_var"):
                parts[f"backbone_{whose}_n{i}_{name}"] = getattr(stage[1], name)
        for head, layer in (("one", network.one), ("mix", network.mix)):
            parts |= {f"head_{head}_{whose}_fc_{name}": value for name, value in layer.named_parameters()}
    for mine, theirs in (("query", "conv_q_conv"), ("key", "conv_k_conv"), ("value", "conv_v")):
        layer = getattr(trio.generator, mine)
        parts |= {f"mix_block_{theirs}_{name}": value for name, value in layer.named_parameters()}
    with torch.no_grad():
        for name, part in parts.items():
            part.copy_(g[f"init__{name}"])
    return trio.train(), parts


def released_step(g, t) -> adautomix.Step:
    """The file's draws, in the released class's order."""
    places, lam = g["perms_in_draw_order"], (g["beta_draws"] / g["beta_draws"].sum()).float()
    drawn = (places[[1, 0, 2]], places[[3, 4, 5]], lam, lam, float(lam[0]), t % 2 == 0)
    return adautomix.Step(g["x"], g["y"], *drawn, np.random.default_rng(0))


def test_two_steps_are_those_of_the_released_code():
    g = golden("A2_adautomix_step_n3_lamcat0")
    trio, parts = released_trio(g)
    config = Config(learning_rate=float(g["lr"]), floor=1.0)
    optimizer = adautomix.optimizer_of(config, trio, "cpu")
    for t in (0, 1):
        step = released_step(g, t)
        terms = adautomix.update(config, trio, optimizer, step)
        close(terms["loss_mix"], g[f"it{t}__amce_student"])
        close(terms["loss_teacher"], g[f"it{t}__amce_teacher"])
        close(terms["similarity"], g[f"it{t}__cos"])
        close(terms["loss"] - terms["loss_mix"], g[f"it{t}__clean_term"])
        close(terms["loss"] + terms["loss_generator"], g[f"it{t}__total_loss"])
        gradients = {name for name, part in parts.items() if part.requires_grad and part.grad is not None}
        assert gradients == {name[len(f"it{t}__grad__") :] for name in g if name.startswith(f"it{t}__grad__")}
        for name in gradients:
            close(parts[name].grad, g[f"it{t}__grad__{name}"])
        teachers.follow(trio.student, trio.teacher, float(g["ema_momentum"]), config.teacher_norms)
        for name, part in parts.items():
            close(part, g[f"it{t}__after__{name}"])


@torch.no_grad()
def test_mixed_images_are_those_of_the_released_code():
    g = golden("A2_adautomix_step_n3_lamcat0")
    trio, _ = released_trio(g)
    step = released_step(g, 0)
    clean, _ = adautomix.teacher_clean(ADAUTOMIX, trio, step)
    close(adautomix.generated(ADAUTOMIX, trio, step, clean.features_Bchw)[0], g["it0__img_mix_mb"])
    close(adautomix.student_images(ADAUTOMIX, trio, step, clean.features_Bchw), g["it0__img_mix_bb"])


# A step written plainly


def a_step(config=TINY, *, count=8, side=16, classes=4, first=None, adversarial=True, seed=5):
    """Networks that are no longer as they began, their generator far from even, and what is drawn for a step."""
    config = replace(config, batch=count)
    random = torch.Generator().manual_seed(seed)
    trio = adautomix.trio_of(config, 3, classes, 0)
    with torch.no_grad():
        for weight in trio.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=random))
        for weight in trio.generator.parameters() if trio.generator else ():
            weight.add_(torch.randn(weight.shape, generator=random))
    draws = adautomix.draw(config, 0, 0, count, "cpu")
    n = draws.count_S[0]
    places = [draws.generator_SNB[0, :n], draws.student_SNB[0, :n]]
    if n == 2:
        places = [torch.stack([torch.arange(count), place[0]]) for place in places]
    step = adautomix.Step(
        torch.randn(count, 3, side, side, generator=random),
        torch.randint(classes, (count,), generator=random),
        *places,
        draws.generator_SN[0, :n],
        draws.student_SN[0, :n],
        draws.first_S[0] if first is None else first,
        adversarial,
        np.random.default_rng(0),
    )
    return config, trio.train(), step


def updated(config, trio, step):
    """The losses of one update, which leaves the gradients where they are."""
    optimizer = adautomix.optimizer_of(config, trio, "cpu")
    return adautomix.update(config, trio, optimizer, step)


def cross_entropy(logits, step, lam, places, smoothing=0.0):
    return sum(
        weight * F.cross_entropy(logits, step.labels_B[index], label_smoothing=smoothing)
        for weight, index in zip(lam, places, strict=True)
    )


def plainly(config, trio, step):
    """Losses of student and generator, by as many passes as the released class makes, from the equations."""
    x, y, smoothing = step.x_BCHW, step.labels_B, config.label_smoothing
    with torch.no_grad():
        features = trio.teacher(x).features_Bchw
        own = trio.generator(features, step.student_NB, step.student_N)
    masks = trio.generator(features, step.generator_NB, step.generator_N)
    x_generator = sum(masks[:, n, None] * x[index] for n, index in enumerate(step.generator_NB))
    x_student = sum(own[:, n, None] * x[index] for n, index in enumerate(step.student_NB))
    seen = trio.teacher(x_generator)
    amce_teacher = cross_entropy(seen.mix_BK, step, step.generator_N, step.generator_NB, smoothing)
    cosine = 0.0
    for lam, index in zip(step.generator_N, step.generator_NB, strict=True):
        with torch.no_grad():
            clean = trio.teacher(x[index])
        pair = (seen.mix_BK, clean.mix_BK) if config.cosine_of == "logits" else (seen.pooled_BD, clean.pooled_BD)
        cosine = cosine + lam * F.cosine_similarity(*pair).mean()
    ace = F.cross_entropy(trio.student(x).one_BK, y, label_smoothing=smoothing)
    a, b = config.alpha, config.beta
    if len(step.student_NB) == 2:
        student = ace
    else:
        linear = sum(lam * x[index] for lam, index in zip(step.student_N, step.student_NB, strict=True))
        mce = cross_entropy(trio.student(linear).mix_BK, step, step.student_N, step.student_NB, smoothing)
        student = (1 - a) * ace + a * mce
    student = student + cross_entropy(trio.student(x_student).mix_BK, step, step.student_N, step.student_NB, smoothing)
    if config.generator_objective == "eq15":
        frozen = copy.deepcopy(trio.student).requires_grad_(False)
        harder = cross_entropy(frozen(x_generator).mix_BK, step, step.generator_N, step.generator_NB, smoothing)
        return student, -harder + b * amce_teacher - (1 - b) * cosine
    if config.generator_objective == "official" and step.adversarial:
        return student, -b * amce_teacher + (1 - b) * cosine
    return student, amce_teacher


PLAIN = {
    "official": {},
    "official, at an even step": {"adversarial": True},
    "official, at an odd step": {"adversarial": False},
    "two images": {"images": 2},
    "four images": {"images": 4},
    "lam embedded": {"embed_lam": True},
    "eq15": dict(EQ15),
    "eq15, pooled features": {**EQ15, "cosine_of": "features", "beta": 0.6, "alpha": 0.2},
    "cooperative": {"generator_objective": "cooperative"},
    "one head": {"heads": "shared"},
    "labels smoothed": {"label_smoothing": 0.2},
    "eq15, labels smoothed": {**EQ15, "label_smoothing": 0.2},
}


@pytest.mark.parametrize("case", PLAIN)
def test_a_step_is_the_equations_with_every_gradient(case):
    fields = dict(PLAIN[case])
    adversarial = fields.pop("adversarial", True)
    config, trio, step = a_step(replace(TINY, **fields), first=0.5, adversarial=adversarial)
    twin = copy.deepcopy(trio)
    terms = updated(config, trio, step)
    student, generator = plainly(config, twin, step)
    torch.testing.assert_close(terms["loss"], student)
    torch.testing.assert_close(terms["loss_generator"], generator, atol=1e-5, rtol=1e-5)
    wanted = {}
    for loss, network in ((student, twin.student), (generator, twin.generator)):
        weights = list(network.parameters())
        wanted |= zip(weights, torch.autograd.grad(loss, weights), strict=True)
    for (name, mine), theirs in zip(trio.named_parameters(), twin.parameters(), strict=True):
        if name.startswith("teacher"):
            assert mine.grad is None
        else:
            torch.testing.assert_close(
                mine.grad, wanted[theirs], atol=2e-5, rtol=2e-4, msg=lambda text, n=name: f"{n}: {text}"
            )
    found = [*trio.teacher.buffers(), *trio.student.buffers()]
    for mine, theirs in zip(found, [*twin.teacher.buffers(), *twin.student.buffers()], strict=True):
        if mine.is_floating_point():
            torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


def test_automix_is_a_pair_its_cross_entropies_and_the_area():
    config, trio, step = a_step(replace(AUTOMIX, **SMALL), first=0.5)
    twin = copy.deepcopy(trio)
    terms = updated(config, trio, step)
    features = twin.teacher(step.x_BCHW).features_Bchw
    masks = twin.generator(features, step.generator_NB, step.generator_N)
    x = sum(masks[:, n, None] * step.x_BCHW[index] for n, index in enumerate(step.generator_NB))
    wanted = cross_entropy(twin.teacher(x).mix_BK, step, step.generator_N, step.generator_NB)
    wanted = wanted + 0.1 * ((masks[:, 0].mean() - step.generator_N[0]).abs() - 0.1).clamp(min=0)
    torch.testing.assert_close(terms["loss_generator"], wanted)
    torch.testing.assert_close(terms["loss"], terms["loss_mix"] + terms["loss_clean"])
    wanted.backward()
    for mine, theirs in zip(trio.generator.parameters(), twin.generator.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("mix", BY_HANDS)
def test_mixes_by_hand_have_one_loss_and_leave_the_teacher_to_follow(mix):
    config, trio, step = a_step(replace(ARMS[mix], concentration=0.6, label_smoothing=0.1))
    before, twin = copy.deepcopy(trio.teacher.state_dict()), copy.deepcopy(trio.student)
    terms = updated(config, trio, step)
    assert terms.keys() == {"loss"}
    assert trio.generator is None
    assert trio.student.one is trio.student.mix
    assert all(torch.equal(before[key], value) for key, value in trio.teacher.state_dict().items())
    own, partner = step.student_NB
    assert (own == torch.arange(8)).all()
    assert (own != partner).any()
    images, lam = mixes.by_hand(mix, step.x_BCHW, partner, step.first, 0.6, np.random.default_rng(0))
    assert (mix == "vanilla") == torch.equal(images, step.x_BCHW)
    logits, y = twin(images).one_BK, step.labels_B
    loss = functools.partial(F.cross_entropy, logits, label_smoothing=0.1)
    wanted = lam * loss(y) + (1 - lam) * loss(y[partner])
    torch.testing.assert_close(terms["loss"], wanted)


@given(seed=st.integers(0, 1000), count=st.integers(2, 5), smoothing=st.floats(0, 0.5))
@settings(max_examples=20, deadline=None)
def test_the_mixed_cross_entropy_is_torchs_with_mixed_labels(seed, count, smoothing):
    random = torch.Generator().manual_seed(seed)
    logits, labels = torch.randn(6, 4, generator=random), torch.randint(4, (count, 6), generator=random)
    lam = torch.rand(count, generator=random)
    lam = lam / lam.sum()
    soft = sum(weight * F.one_hot(one, 4) for weight, one in zip(lam, labels, strict=True))
    wanted = F.cross_entropy(logits, soft, label_smoothing=smoothing)
    torch.testing.assert_close(adautomix.mixed_cross_entropy(logits, labels, lam, smoothing), wanted)
    plain = sum(weight * F.cross_entropy(logits, one) for weight, one in zip(lam, labels, strict=True))
    torch.testing.assert_close(adautomix.mixed_cross_entropy(logits, labels, lam), plain)


# Who trains whom


def gradients(network) -> list[torch.Tensor]:
    return [weight.grad.clone() for weight in network.parameters()]


def shaken(network) -> None:
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(torch.rand(weight.shape, generator=torch.Generator().manual_seed(9)))


@pytest.mark.parametrize("adversarial", [True, False])
def test_the_official_generator_does_not_see_the_student(adversarial):
    config, trio, step = a_step(adversarial=adversarial)
    twin = copy.deepcopy(trio)
    shaken(twin.student)
    updated(config, trio, step)
    updated(config, twin, step)
    assert all(map(torch.equal, gradients(trio.generator), gradients(twin.generator)))
    assert not all(map(torch.equal, gradients(trio.student), gradients(twin.student)))


def test_the_generator_of_the_paper_sees_the_student():
    config, trio, step = a_step(EQUATION, first=0.5)
    twin = copy.deepcopy(trio)
    shaken(twin.student)
    updated(config, trio, step)
    updated(config, twin, step)
    assert not any(map(torch.equal, gradients(trio.generator), gradients(twin.generator)))


def test_the_student_does_not_see_the_generators_own_images():
    """Other permutations and ratios for the generator's images: the student's gradient stays, bit for bit."""
    config, trio, step = a_step()
    twin = copy.deepcopy(trio)
    updated(config, trio, step)
    updated(
        config, twin, replace(step, generator_NB=step.generator_NB.flip(0, 1), generator_N=step.generator_N.flip(0))
    )
    assert all(map(torch.equal, gradients(trio.student), gradients(twin.student)))
    assert not any(map(torch.equal, gradients(trio.generator), gradients(twin.generator)))


def test_the_student_sees_masks_as_constants():
    """With nearly pure mixes no mask reaches the student, so another generator changes nothing for it; else it does."""
    for first, same in ((0.01, True), (0.5, False)):
        config, trio, step = a_step(first=first)
        twin = copy.deepcopy(trio)
        shaken(twin.generator)
        updated(config, trio, step)
        updated(config, twin, step)
        assert all(map(torch.equal, gradients(trio.student), gradients(twin.student))) == same


def test_turned_pixels_are_the_same_pixels():
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0), requires_grad=True)
    turned = 2 * x.detach() - x
    assert torch.equal(turned, x)
    turned.sum().backward()
    assert torch.equal(x.grad, -torch.ones(1000))


@pytest.mark.parametrize(("first", "wanted"), [(0.02, True), (0.03, True), (0.5, False), (0.97, True), (0.99, True)])
def test_nearly_pure_mixes_are_linear(first, wanted):
    config, trio, step = a_step(first=first)
    assert adautomix.plain(config, step) == wanted
    assert not adautomix.plain(replace(config, margin=0.0), step)
    with torch.no_grad():
        clean, _ = adautomix.teacher_clean(config, trio, step)
        images = adautomix.student_images(config, trio, step, clean.features_Bchw)
    linear = mixblock.linear(step.x_BCHW, step.student_NB, step.student_N)
    assert torch.equal(images, linear) == wanted


@pytest.mark.parametrize("fields", [{}, {"same_mix": True}, {**EQ15, "margin": 0.1}], ids=str)
def test_the_student_is_trained_on_nearly_pure_mixes_as_they_are(fields):
    config, trio, step = a_step(replace(TINY, **{"margin": 0.1, **fields}), first=0.05)
    twin = copy.deepcopy(trio.student)
    terms = updated(config, trio, step)
    linear = sum(lam * step.x_BCHW[index] for lam, index in zip(step.student_N, step.student_NB, strict=True))
    wanted = cross_entropy(twin(linear).mix_BK, step, step.student_N, step.student_NB)
    torch.testing.assert_close(terms["loss_mix"], wanted)


def test_one_turn_each_is_the_joint_step_where_the_players_do_not_meet():
    config, trio, step = a_step()
    twin = copy.deepcopy(trio)
    one = updated(config, trio, step)
    other = updated(replace(config, updates="alternating"), twin, step)
    for name, value in one.items():
        torch.testing.assert_close(other[name], value)
    for mine, theirs in zip(trio.state_dict().values(), twin.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_in_turn_the_generator_raises_the_loss_of_the_student_that_has_moved_and_moves_it_no_further():
    config, trio, step = a_step(replace(EQUATION, updates="alternating"), first=0.5)
    twin = copy.deepcopy(trio)
    terms = updated(config, trio, step)
    optimizer = torch.optim.SGD(twin.student.parameters(), lr=0.1, weight_decay=1e-4)
    plainly(config, twin, step)[0].backward()
    optimizer.step()
    for mine, theirs in zip(trio.student.parameters(), twin.student.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)
    wanted = plainly(config, twin, step)[1]
    torch.testing.assert_close(terms["loss_generator"], wanted, atol=1e-4, rtol=1e-4)
    gradient = torch.autograd.grad(wanted, list(twin.generator.parameters()))
    for mine, theirs in zip(gradients(trio.generator), gradient, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-3)


def test_inner_steps_are_counted():
    base, trio, step = a_step(EQUATION, first=0.5)
    before = copy.deepcopy(trio.state_dict())
    moved = {}
    for t1, t2 in ((1, 1), (3, 1), (1, 3)):
        trio.load_state_dict(before)
        config = replace(base, updates="alternating", classifier_steps=t1, generator_steps=t2, momentum=0.0)
        updated(config, trio, step)
        counts = [part.num_batches_tracked for part in trio.student.modules() if isinstance(part, nn.BatchNorm2d)]
        moved[t1, t2] = trio.generator.value.weight.sum().item(), int(counts[0])
    assert moved[3, 1][1] - moved[1, 1][1] == 2 * 3, "three passes of the student a turn"
    assert len({weight for weight, _ in moved.values()}) == 3


@pytest.mark.parametrize("arm", ARMS)
def test_a_step_never_waits_for_the_device(arm):
    config, trio, step = a_step(ARMS[arm])
    optimizer = adautomix.optimizer_of(config, trio, "cpu")
    with Watched() as watched:
        adautomix.update(config, trio, optimizer, step)
    assert not watched.reads


@pytest.mark.parametrize(
    ("fields", "student"), [({}, 3), ({"images": 2}, 2), ({"images": 5}, 3), (EQ15, 3), ({"embed_lam": True}, 3)]
)
def test_a_step_makes_the_passes_that_its_price_is_of(fields, student):
    """The teacher: two forward, one back to the images. The student: each forward pass and back to the weights."""
    config, trio, step = a_step(replace(TINY, **fields), first=0.5)
    optimizer = adautomix.optimizer_of(config, trio, "cpu")
    convolutions = sum(isinstance(p, nn.Conv2d) and p.kernel_size[0] > 1 for p in trio.student.modules())
    with Watched(side=2) as watched:
        adautomix.update(config, trio, optimizer, step)
    assert watched.forward == convolutions * (student + 2)
    assert sum(weights for _, weights in watched.back) == convolutions * student
    assert sum(not weights for _, weights in watched.back) == convolutions


# Draws


def test_images_and_ratios_are_drawn_by_the_released_laws():
    for count in (2, 3, 5):
        draws = adautomix.draw(replace(TINY, images=count), 3, 0, 80, "cpu")
        assert draws.count_S == (count,) * 10
        for places in (draws.generator_SNB, draws.student_SNB):
            assert torch.equal(places.sort(2).values, torch.arange(8).expand(10, adautomix.MOST, 8))
        for lam in (draws.generator_SN, draws.student_SN):
            torch.testing.assert_close(lam.sum(1), torch.ones(10))
            assert not lam[:, count:].any()
        assert torch.equal(draws.generator_SN, draws.student_SN) == (count > 2)
        assert not torch.equal(draws.generator_SNB, draws.student_SNB)
        np.testing.assert_allclose(draws.first_S, draws.student_SN[:, 0], rtol=1e-6)


@pytest.mark.parametrize("arm", ["official", "official, N = 2", "mixup"])
def test_steps_have_their_images_with_their_labels_and_those_drawn_as_partners(arm):
    config, data = replace(ARMS[arm], batch=7, flip=False, padding=0), open_set()
    pixels, labels = torch.from_numpy(data.train.pixels), torch.from_numpy(data.train.labels)
    found = []
    for epoch in (0, 1):
        drawn = adautomix.draw(config, 3, epoch, len(labels), "cpu")
        for s, step in enumerate(adautomix.batches(config, data, pixels, labels, 3, epoch)):
            found.append(step.adversarial)
            assert torch.equal(step.labels_B, labels[drawn.order_SB[s]])
            images = normalise(to_float(pixels[drawn.order_SB[s]]), data.mean, data.std)
            torch.testing.assert_close(step.x_BCHW, images, atol=1e-5, rtol=0)
            for places, wanted in (
                (step.generator_NB, drawn.generator_SNB[s]),
                (step.student_NB, drawn.student_SNB[s]),
            ):
                own = [torch.arange(7), wanted[0]]
                assert torch.equal(places, wanted[:3] if arm == "official" else torch.stack(own))
    assert found == [True, False] * 3, "in turn, over the border of epochs too"


def test_epochs_and_steps_draw_their_own(monkeypatch):
    """Views by the epoch, what mixes by hand draw by the step, the number of images by the epoch."""
    seeds, real, data = [], augment.view, open_set()
    monkeypatch.setattr(augment, "view", lambda *given: seeds.append(given[2].initial_seed()) or real(*given))
    pixels, labels = torch.from_numpy(data.train.pixels), torch.from_numpy(data.train.labels)
    steps = [step for epoch in (0, 1) for step in adautomix.batches(TINY, data, pixels, labels, 0, epoch)]
    assert len(seeds) == len(steps) == 6
    assert len(set(seeds)) == 2
    assert len({step.random.random() for step in steps}) == 6
    first, second = (adautomix.draw(replace(TINY, any_count=True), 0, epoch, 800, "cpu") for epoch in (0, 1))
    assert first.count_S != second.count_S
    assert first.first_S != second.first_S


def test_a_crop_brings_in_what_is_mirrored():
    data = open_set()
    white, labels = torch.full(data.train.pixels.shape, 255, dtype=torch.uint8), torch.from_numpy(data.train.labels)
    for step in adautomix.batches(TINY, data, white, labels, 0, 0):
        torch.testing.assert_close(step.x_BCHW, normalise(torch.ones_like(step.x_BCHW), data.mean, data.std))


def test_arms_share_what_they_draw():
    two, three, same = (
        adautomix.draw(config, 3, 0, 80, "cpu")
        for config in (replace(TINY, images=2), TINY, replace(TINY, same_mix=True))
    )
    hand = adautomix.draw(ARMS["mixup"], 3, 0, 80, "cpu")
    for one in (two, same, hand):
        assert torch.equal(one.order_SB, three.order_SB)
        assert torch.equal(one.generator_SNB, three.generator_SNB)
    assert torch.equal(same.student_SNB, same.generator_SNB)
    pairs = adautomix.draw(replace(TINY, images=2, same_mix=True), 3, 0, 80, "cpu")
    assert torch.equal(pairs.student_SN, pairs.generator_SN)
    assert torch.equal(pairs.generator_SN, two.generator_SN)
    assert torch.equal(hand.student_SN[:, 0], two.student_SN[:, 0])
    other = adautomix.draw(TINY, 3, 1, 80, "cpu")
    assert not torch.equal(other.order_SB, three.order_SB)


def test_the_two_laws_of_three_ratios_differ_in_their_spread():
    count = np.full(40_000, 3)
    spread = {}
    for law in ("released", "dirichlet"):
        lam = adautomix.ratios(replace(TINY, lam_law=law), count, np.random.default_rng(0))
        np.testing.assert_allclose(lam.sum(1), 1)
        assert not lam[:, 3:].any()
        spread[law] = lam[:, 0].std()
    assert spread["released"] == pytest.approx(0.18, abs=0.005)
    assert spread["dirichlet"] == pytest.approx(math.sqrt(2 / 36), abs=0.005)


def test_two_ratios_are_a_beta_and_its_complement_by_both_laws():
    for law in ("released", "dirichlet"):
        lam = adautomix.ratios(
            replace(TINY, lam_law=law, concentration=0.5), np.full(40_000, 2), np.random.default_rng(0)
        )
        assert lam[:, 0].var() == pytest.approx(1 / 8, abs=0.003)
        np.testing.assert_allclose(lam[:, 1], 1 - lam[:, 0])


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("law", ["released", "dirichlet"])
def test_ratios_of_a_tiny_concentration_are_ratios_too(law, count):
    """In the limit a Beta is a coin: one image has all where at most one coin shows heads; with Dirichlet, always."""
    config = replace(TINY, lam_law=law, concentration=1e-5)
    lam = adautomix.ratios(config, np.full(20_000, count), np.random.default_rng(0))
    np.testing.assert_allclose(lam.sum(1), 1)
    alone = 1.0 if law == "dirichlet" or count == 2 else (count + 1) / 2**count
    np.testing.assert_allclose((lam[:, :count] > 0.999).mean(0), alone / count, atol=0.012)


def test_the_number_of_images_can_be_drawn_anew():
    draws = adautomix.draw(replace(TINY, images=4, any_count=True), 0, 0, 800, "cpu")
    assert set(draws.count_S) == {2, 3, 4}
    for lam, count in zip(draws.generator_SN, draws.count_S, strict=True):
        assert int((lam > 0).sum()) == count


# Config and training


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": 1}, "images=1 is not allowed: images must be between 2 and 5"),
        ({"images": 6}, "between 2 and 5"),
        ({"images": 3, "batch": 2}, "at most the batch, which is 2"),
        ({"alpha": 1.5}, "alpha must be between 0 and 1"),
        ({"beta": -0.1}, "beta must be between 0 and 1"),
        ({"beta": math.nan}, "beta"),
        ({"concentration": 0.0}, "concentration must be above 0"),
        ({"margin": 0.5}, "below 0.5"),
        ({"generator_std": 0.0}, "generator_std"),
        ({"mix": "automix"}, "2 for AutoMix"),
        ({"generator_objective": "eq15"}, "same_mix=False is not allowed"),
        ({"terms": ("clean",)}, "nothing else trains the masks"),
        ({"terms": ("clean", "clean", "teacher")}, "different terms"),
        ({"layer": 5}, "a stage of resnet18, 1 to 4"),
        ({"network": "swin_t", "width": 9}, "even for swin_t"),
        ({"network": "vgg"}, "network must be one of"),
        ({"floor": 1.5}, "a share of the learning rate"),
        ({"generator_rate": 0.0}, "generator_rate"),
        ({"ema": 0.9999, "ema_end": 0.999}, "at most ema_end"),
        ({"mask_scale": 0}, "mask_scale=0"),
        ({"generator_steps": 0}, "generator_steps"),
        ({"mix": "puzzlemix"}, "mix must be one of"),
        ({"learning_rate": math.inf}, "learning_rate"),
        ({"batch": 1, "mix": "vanilla"}, "an image alone has no partner"),
    ],
)
def test_a_bad_config_says_what_is_allowed(changes, message):
    with pytest.raises(ConfigError, match=message):
        replace(Config(), **changes)


@pytest.mark.parametrize(
    ("side", "fields", "message"),
    [
        (16, {"layer": 4}, r"maps of 2 x 2 pixels from images of 16 x 16.*8 x 8\. Set mask_scale to 8"),
        (18, {}, r"maps of 5 x 5 pixels from images of 18 x 18.*20 x 20\. Set another layer"),
    ],
)
def test_masks_that_do_not_fit_the_images_say_what_would(side, fields, message):
    with pytest.raises(ConfigError, match=message):
        next(adautomix.train(replace(TINY, **fields), open_set(side=side), seed=0, device="cpu"))


def test_mixes_by_hand_take_images_of_any_side():
    next(adautomix.train(replace(ARMS["mixup"], epochs=1), open_set(side=18), seed=0, device="cpu"))


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_trains_and_resumes_to_the_same_numbers(arm):
    data = open_set()
    first, second = ((dict(e.metrics), e.state()) for e in adautomix.train(ARMS[arm], data, seed=1, device="cpu"))
    (again,) = (dict(e.metrics) for e in adautomix.train(ARMS[arm], data, seed=1, device="cpu", resume=first[1]))
    assert again == second[0]
    for name in ("teacher_one", "teacher_mix", "student_one", "student_mix"):
        measured = [first[0][f"accuracy_{name}"], second[0][f"accuracy_{name}"]]
        assert second[0][f"accuracy_{name}_best"] == max(measured)
        assert second[0][f"accuracy_{name}_median10"] == pytest.approx(sum(measured) / 2)
    scored = ARMS[arm].scored
    assert second[0]["accuracy"] == second[0][f"accuracy_{scored}_one"]
    assert "fgsm_error" in second[0]
    assert "fgsm_error" not in first[0]


def test_the_teacher_is_the_average_of_the_student_after_each_step_by_the_released_schedule():
    """With one step an epoch, each epoch's state is a step's; momenta from the schedule's formula, steps from 0."""
    config = replace(TINY, batch=24, epochs=6, ema=0.5, ema_end=0.9, ema_constant=0.3)
    momenta = [0.5, 0.5, *(0.9 - 0.4 * (math.cos(math.pi * k / 6) + 1) / 2 for k in range(2, 6))]
    trio = adautomix.trio_of(config, 3, 3, 0)
    average = {name: weight.detach().clone() for name, weight in trio.student.named_parameters()}
    for epoch, m in zip(adautomix.train(config, open_set(), seed=0, device="cpu"), momenta, strict=True):
        weights = epoch.state()["weights"]
        for name in average:
            average[name] = m * average[name] + (1 - m) * weights[f"student.{name}"]
            torch.testing.assert_close(weights[f"teacher.{name}"], average[name], atol=1e-6, rtol=1e-5)
    assert not torch.equal(weights["student.one.weight"], weights["teacher.one.weight"])


def test_arms_train_different_networks():
    data = open_set()
    losses = {
        arm: next(adautomix.train(replace(config, epochs=1), data, seed=0, device="cpu")).metrics["nll"]
        for arm, config in ARMS.items()
    }
    assert len(set(losses.values())) == len(ARMS)


@functools.cache
def weights_of(arm: str) -> dict[str, torch.Tensor]:
    *_, last = adautomix.train(ARMS[arm], open_set(), seed=0, device="cpu")
    return last.state()["weights"]


@pytest.mark.parametrize(
    ("arm", "changes"),
    [
        ("official", {"heads": "shared"}),
        ("official", {"layer": 2, "mask_scale": 2}),
        ("official", {"optimizer": "adamw", "learning_rate": 1e-3}),
        ("official", {"floor": 0.0}),
        ("official", {"warmup": 1}),
        ("official", {"generator_rate": 1.0}),
        ("official", {"generator_floor": 0.0}),
        ("official", {"generator_std": 0.1}),
        ("official", {"momentum": 0.0}),
        ("official", {"weight_decay": 0.01}),
        ("official", {"weight_decay": 0.1, "decay_norms": False}),
        ("official", {"clip": 0.1}),
        ("official", {"label_smoothing": 0.2}),
        ("official", {"precision": "bf16"}),
        ("official", {"flip": False}),
        ("official", {"padding": 0}),
        ("official", {"crop": True}),
        ("official", {"any_count": True}),
        ("official", {"concentration": 5.0}),
        ("official", {"lam_law": "dirichlet"}),
        ("official", {"margin": 0.4}),
        ("official", {"same_mix": True}),
        ("official", {"embed_lam": True}),
        ("official", {"upsampling": "nearest"}),
        ("official", {"activation": "linear"}),
        ("official", {"softmax": "before"}),
        ("automix", {"area_weight": 5.0}),
        ("official", {"adversarial_every": 1}),
        ("official", {"alpha": 0.1}),
        ("official", {"beta": 0.9}),
        ("official", {"terms": ("clean", "linear", "teacher")}),
        ("eq15", {"terms": ()}),
        ("official, N = 2", {"pair_weights": "paper"}),
        ("official", {"cosine_of": "features"}),
        ("eq15", {"updates": "alternating"}),
        ("official", {"ema": 0.1}),
        ("official", {"ema_end": 0.5}),
        ("official", {"ema_constant": 0.9}),
        ("official", {"teacher_norms": "average"}),
        ("official", {"teacher_norms": "copy"}),
        ("mixup", {"teacher_norms": "own"}),
    ],
)
def test_every_option_changes_the_training(arm, changes):
    before = weights_of(arm)
    *_, varied = adautomix.train(replace(ARMS[arm], **changes), open_set(), seed=0, device="cpu")
    after = varied.state()["weights"]
    shared = [key for key in before if key in after and before[key].shape == after[key].shape]
    assert not all(torch.equal(before[key], after[key]) for key in shared)


def test_which_network_is_scored_changes_no_weight():
    *_, plain = adautomix.train(TINY, open_set(), seed=0, device="cpu")
    *_, varied = adautomix.train(replace(TINY, scored="student"), open_set(), seed=0, device="cpu")
    weights = [epoch.state()["weights"] for epoch in (plain, varied)]
    assert all(map(torch.equal, weights[0].values(), weights[1].values()))
    assert varied.metrics["accuracy"] == plain.metrics["accuracy_student_one"]


@pytest.mark.parametrize(("network", "scale"), [("resnext50", 4), ("swin_t", 16), ("convnext_t", 16)])
def test_other_networks_train(network, scale):
    config = replace(TINY, network=network, mask_scale=scale, epochs=1)
    (epoch,) = adautomix.train(config, open_set(side=32), seed=0, device="cpu")
    assert math.isfinite(epoch.metrics["loss_generator"])


def test_swins_settings_are_a_config():
    config = replace(ADAUTOMIX, **SWIN)
    assert (config.network, config.mask_scale, config.optimizer) == ("swin_t", 32, "adamw")
    assert (config.crop, config.crop_scale, config.padding) == (True, 0.8, 0)


def test_a_network_learns_and_its_state_rebuilds_it():
    data = open_set(per_class=24)
    config = replace(TINY, epochs=12, learning_rate=0.05, flip=False, padding=0)
    *_, last = adautomix.train(config, data, seed=0, device="cpu")
    assert last.metrics["accuracy_teacher_one"] > 0.9
    assert last.metrics["accuracy_student_one"] > 0.9
    state = last.state()
    trio = teachers.rebuild(state["network"], state["weights"])
    assert teachers.evaluate(trio, data, "teacher", "cpu", attack=True).items() <= last.metrics.items()


def test_the_generator_learns_what_it_is_trained_for():
    """Cooperative masks end with a lower loss of the teacher than those that only oppose it."""
    data, found = open_set(per_class=24), {}
    base = replace(TINY, epochs=10, learning_rate=0.05, flip=False, padding=0, generator_rate=2.0)
    for name, changes in (("with", {"generator_objective": "cooperative"}), ("against", {"adversarial_every": 1})):
        *_, last = adautomix.train(replace(base, **changes), data, seed=0, device="cpu")
        found[name] = last.metrics["loss_teacher"]
    assert found["with"] < found["against"]


def test_weights_that_blow_up_are_reported():
    with pytest.raises(Diverged, match="In epoch"):
        list(adautomix.train(replace(TINY, learning_rate=1e30), open_set(), seed=0, device="cpu"))


def test_gradients_of_student_and_generator_are_cut_to_one_length():
    config, trio, step = a_step(replace(TINY, clip=0.01), first=0.5)
    updated(config, trio, step)
    assert torch.cat([each.flatten() for each in (*gradients(trio.student), *gradients(trio.generator))]).norm() == (
        pytest.approx(0.01, rel=1e-3)
    )


def test_norms_and_biases_are_spared_where_asked():
    trio = adautomix.trio_of(TINY, 3, 4, 0)
    groups = adautomix.optimizer_of(replace(TINY, decay_norms=False), trio, "cpu").param_groups
    assert [(group["part"], group["weight_decay"]) for group in groups] == [
        ("student", 1e-4),
        ("student", 0.0),
        ("generator", 1e-4),
        ("generator", 0.0),
    ]
    assert {weight.dim() for weight in groups[0]["params"]} == {2, 4}
    assert {weight.dim() for weight in groups[1]["params"]} == {1}
    everything = adautomix.optimizer_of(TINY, trio, "cpu").param_groups
    assert len(everything) == 2


@pytest.mark.parametrize(
    ("network", "spared"), [("swin_t", "relative_position_bias_table"), ("convnext_t", "layer_scale")]
)
def test_what_a_network_names_apart_is_spared_too(network, spared):
    """The released runs of both: no decay of tables of biases, nor of ConvNeXt's scales of layers."""
    trio = adautomix.trio_of(replace(TINY, network=network), 3, 4, 0)
    groups = adautomix.optimizer_of(replace(TINY, network=network, decay_norms=False), trio, "cpu").param_groups
    names = {weight: name for name, weight in trio.named_parameters()}
    decayed = [names[weight] for group in groups if group["weight_decay"] for weight in group["params"]]
    assert any(spared in name for name in names.values())
    assert decayed
    assert all(name.endswith("weight") for name in decayed)


def test_rates_fall_along_a_cosine_by_the_epoch_after_a_rise():
    config = replace(TINY, epochs=10, learning_rate=0.2, floor=0.25, generator_rate=0.1, generator_floor=0.0, warmup=2)
    optimizer = adautomix.optimizer_of(config, adautomix.trio_of(config, 3, 4, 0), "cpu")
    seen = []
    for epoch in range(10):
        for s in range(4):
            adautomix.set_rates(config, optimizer, epoch, s, 4)
            seen.append(tuple(group["lr"] for group in optimizer.param_groups))
    assert seen[0] == pytest.approx((0.2 / 8, 0.1 / 8))
    assert seen[8] == seen[11]
    half = (1 + math.cos(math.pi * 0.5)) / 2
    assert seen[20] == pytest.approx((0.05 + 0.15 * half, 0.1 * half))


@torch.no_grad()
def test_a_narrow_network_can_start_with_the_attention_of_a_wide_one():
    """Why `generator_std` grows with the root of 64 / width: spread of values and of attention, on the same images."""
    spread = {}
    for width, std in ((64, 0.01), (8, 0.01 * 8**0.5), (8, 0.01)):
        trio = adautomix.trio_of(replace(TINY, width=width, generator_std=std), 3, 10, 0)
        features = trio.teacher(torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(0))).features_Bchw
        query, key, value = (
            F.conv2d(features, part.weight, part.bias).flatten(2)
            for part in (trio.generator.query, trio.generator.key, trio.generator.value)
        )
        attention = query.relu().mT @ key.relu().roll(1, 0) / query.shape[1] ** 0.5
        spread[width, std] = (float(attention.std(-1).mean()), float(value.std()))
    wide, scaled, narrow = spread.values()
    assert scaled == pytest.approx(wide, rel=0.5)
    assert narrow[0] < 0.3 * wide[0]
