"""Maps against loops written from the equations, and what must hold of them on a real network."""

import pytest
import torch
import torch.nn.functional as F

from trainables import attribution, backbones, contrastive

MODES = ("batch_minmax_sum", "raw_sum", "per_image")


def maps_of(*sides: int, count: int = 6, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(count, side, side, generator=generator, dtype=torch.float64) for side in sides]


@pytest.fixture(scope="module")
def graph():
    """A network's activations in eval mode, and the gradients of L_simclr with respect to them, in double precision."""
    network = backbones.projected("resnet18", 8, 3, "mlp", torch.Generator().manual_seed(0)).double().eval()
    x = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    out, _, activations = network(x)
    loss = contrastive.simclr(F.normalize(out, dim=1), 0.05)
    gradients = torch.autograd.grad(loss, list(activations.values()))
    return network, x, activations, dict(zip(activations, gradients, strict=True))


def test_maps_are_the_loops_over_channels_and_pixels():
    generator = torch.Generator().manual_seed(0)
    A, G = (torch.randn(2, 3, 2, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    A = A.abs()
    for sign in (1, -1):
        layer, grad = torch.zeros(2, 2, 2, dtype=A.dtype), torch.zeros(2, 2, 2, dtype=A.dtype)
        for b in range(2):
            for i in range(2):
                for j in range(2):
                    for k in range(3):
                        layer[b, i, j] += max(sign * G[b, k, i, j], 0) * A[b, k, i, j]
                        grad[b, i, j] += sign * sum(G[b, k].flatten().tolist()) / 4 * A[b, k, i, j]
        torch.testing.assert_close(attribution.layercam(A, G, sign), layer)
        torch.testing.assert_close(attribution.gradcam(A, G, sign), grad.clamp(min=0))
    torch.testing.assert_close(attribution.activation_map(A), A[:, 0] + A[:, 1] + A[:, 2])


def test_gradients_before_global_pooling_are_constant_over_pixels(graph):
    gradient = graph[3]["conv5_2"]
    deviation = (gradient - gradient.mean((2, 3), keepdim=True)).abs().max()
    assert deviation <= 1e-7 * gradient.abs().max()
    assert gradient.abs().max() > 0


def test_layercam_of_both_signs_differ_by_the_unclipped_gradcam_there(graph):
    A, G = graph[2]["conv5_2"], graph[3]["conv5_2"]
    signed = (G.mean((2, 3), keepdim=True) * A).sum(1)
    difference = attribution.layercam(A, G, 1) - attribution.layercam(A, G, -1)
    torch.testing.assert_close(difference, signed, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(attribution.gradcam(A, G), signed.clamp(min=0), rtol=1e-9, atol=1e-12)


def test_both_signs_weigh_the_same_where_the_embedding_is_normalised_and_the_head_linear():
    generator = torch.Generator().manual_seed(0)
    A = torch.rand(6, 5, 3, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    head = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    loss = contrastive.simclr(F.normalize(A.mean((2, 3)) @ head, dim=1), 0.1)
    (G,) = torch.autograd.grad(loss, A)
    plus, minus = (attribution.layercam(A, G, sign).sum((1, 2)) for sign in (1, -1))
    torch.testing.assert_close(plus, minus)


def test_maps_of_permuted_images_are_the_permuted_maps(graph):
    network, x, activations, gradients = graph
    order = torch.tensor([2, 0, 3, 1])
    both_views = torch.cat([order, order + 4])
    out, _, moved = network(x[both_views])
    moved_gradients = torch.autograd.grad(contrastive.simclr(F.normalize(out, dim=1), 0.05), list(moved.values()))
    for (layer, A), G in zip(moved.items(), moved_gradients, strict=True):
        expected = attribution.layercam(activations[layer], gradients[layer])[both_views]
        torch.testing.assert_close(attribution.layercam(A, G), expected, rtol=1e-6, atol=1e-12)


def bilinear(map_hw: torch.Tensor, size: int) -> torch.Tensor:
    """Pixel by pixel: sample at ((i + 1/2) h / H - 1/2), edges repeated."""
    h = map_hw.shape[0]
    result = torch.zeros(size, size, dtype=map_hw.dtype)
    for i in range(size):
        for j in range(size):
            value = 0.0
            y, x = ((n + 0.5) * h / size - 0.5 for n in (i, j))
            for row in range(-1, h + 1):
                for column in range(-1, h + 1):
                    weight = max(0.0, 1 - abs(y - row)) * max(0.0, 1 - abs(x - column))
                    value += weight * map_hw[min(max(row, 0), h - 1), min(max(column, 0), h - 1)]
            result[i, j] = value
    return result


@pytest.mark.parametrize("how", MODES)
def test_aggregation_is_the_loop_over_layers(how):
    maps = maps_of(2, 4, count=3)
    total = torch.zeros(3, 8, 8, dtype=torch.float64)
    for layer in maps:
        for b in range(3):
            scaled = layer[b]
            if how == "batch_minmax_sum":
                scaled = (layer[b] - layer.min()) / (layer.max() - layer.min() + 1e-8)
            if how == "per_image":
                scaled = layer[b] / layer[b].max()
            total[b] += bilinear(scaled, 8)
    if how == "raw_sum":
        total = (total - total.min()) / (total.max() - total.min() + 1e-8)
    torch.testing.assert_close(attribution.aggregate(maps, how, (8, 8)), total)


def test_one_layers_peak_is_as_high_however_layers_are_added():
    # As high, and not the same: upsampling is flat along the margin, where rounding picks among equals.
    maps = maps_of(4, count=50)
    raw = attribution.aggregate(maps, "raw_sum", (32, 32))
    for how in MODES:
        y, x = attribution.locate(maps, how, "upsampled", "first", (32, 32)).unbind(1)
        torch.testing.assert_close(raw[torch.arange(50), y, x], raw.amax((1, 2)), rtol=1e-12, atol=0)


def test_a_map_of_zeros_is_no_accident():
    for how in MODES:
        found = attribution.locate([torch.zeros(2, 4, 4)], how, "upsampled", "first", (16, 16))
        assert found.tolist() == [[0, 0], [0, 0]]


def spike(row: int, column: int, side: int = 4) -> torch.Tensor:
    """A map of zeros but for a one."""
    map_hw = torch.zeros(side, side)
    map_hw[row, column] = 1.0
    return map_hw


@pytest.mark.parametrize(
    ("grid", "tie", "expected"),
    [
        # On the edges bilinear upsampling is flat: rows 0 to 3 tie, and rows 28 to 31.
        ("upsampled", "first", [[0, 0], [28, 28], [0, 28]]),
        ("upsampled", "centre", [[2, 2], [30, 30], [2, 30]]),
        ("lowres", "first", [[4, 4], [28, 28], [4, 28]]),
        ("corner", "first", [[0, 0], [24, 24], [0, 24]]),
    ],
)
def test_where_a_cells_peak_lies_on_the_image(grid, tie, expected):
    maps = [torch.stack([spike(0, 0), spike(3, 3), spike(0, 3)])]
    assert attribution.locate(maps, "batch_minmax_sum", grid, tie, (32, 32)).tolist() == expected


def test_the_centre_of_a_plateau_is_found_despite_rounding():
    maps = maps_of(2, count=50)
    found = attribution.locate(maps, "batch_minmax_sum", "upsampled", "centre", (32, 32))
    cells = maps[0].flatten(1).argmax(1)
    assert found.tolist() == [[(4, 28)[cell // 2], (4, 28)[cell % 2]] for cell in cells.tolist()]


def test_layers_of_two_sizes_meet_at_the_finer_one():
    fine, coarse = spike(5, 2, side=8), spike(2, 1, side=4)
    found = attribution.locate([coarse[None], fine[None]], "per_image", "corner", "first", (32, 32))
    assert found.tolist() == [[20, 8]]


def test_the_first_peak_in_row_major_order_wins():
    map_hw = torch.zeros(1, 4, 4)
    map_hw[0, 1, 3] = map_hw[0, 2, 0] = 1.0
    assert attribution.peak(map_hw).tolist() == [[1, 3]]
    assert attribution.peak(map_hw, "centre").tolist() == [[1.5, 1.5]]
