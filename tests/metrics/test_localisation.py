from __future__ import annotations

import pytest
import torch
from scipy.stats import mannwhitneyu

from captum_face.metrics import pixel_auc, pointing_game, relevance_mass

METRICS = [relevance_mass, pixel_auc, pointing_game]
every_metric = pytest.mark.parametrize("metric", METRICS)
HEIGHT, WIDTH = 5, 7


@pytest.fixture
def mask():
    """Two masks of different area."""
    mask = torch.zeros(2, HEIGHT, WIDTH, dtype=torch.bool)
    mask[0, 1:3, 2:6] = True
    mask[1, 4, 6] = True
    return mask


def random_maps(n=2, levels=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(n, 3, HEIGHT, WIDTH, generator=generator)
    return maps if levels is None else (maps * levels).round() / levels


def area(mask):
    return mask.double().mean((1, 2))


@every_metric
@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
def test_perfect_and_inverse_maps(metric, mask, scale):
    perfect = torch.where(mask, -scale, scale)[:, None].expand(-1, 3, -1, -1)
    ones, zeros = torch.ones(2).double(), torch.zeros(2).double()
    assert torch.equal(metric(perfect, mask), ones)
    assert torch.equal(metric(-perfect, mask), zeros)
    assert torch.equal(metric(-perfect, mask, order="similar"), ones)
    assert torch.equal(metric(perfect, mask, order="similar"), zeros)


@every_metric
@pytest.mark.parametrize("value", [0.0, -0.3, 0.7])
@pytest.mark.parametrize("order", ["dissimilar", "similar"])
def test_constant_maps_score_as_random(metric, mask, value, order):
    expected = torch.full((2,), 0.5).double() if metric is pixel_auc else area(mask)
    torch.testing.assert_close(metric(torch.full((2, HEIGHT, WIDTH), value), mask, order=order), expected)


@every_metric
def test_random_maps_score_that_value_on_average(metric, mask):
    maps = torch.rand(4000, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0)) - 0.5
    expected = 0.5 if metric is pixel_auc else float(area(mask)[0])
    assert float(metric(maps, mask[:1]).mean()) == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("order", ["dissimilar", "similar"])
@pytest.mark.parametrize("levels", [None, 2])
def test_looped_references(mask, order, levels):
    attr = random_maps(levels=levels)
    sign = -1 if order == "dissimilar" else 1
    for i in range(2):
        pixels = [
            (sign * float(attr[i, :, y, x].mean()), bool(mask[i, y, x]))
            for y in range(HEIGHT)
            for x in range(WIDTH)
        ]
        inside = [value for value, hit in pixels if hit]
        outside = [value for value, hit in pixels if not hit]
        mass = sum(max(v, 0) for v in inside) / sum(max(v, 0) for v, _ in pixels)
        assert float(relevance_mass(attr, mask, order)[i]) == pytest.approx(mass, abs=1e-12)
        wins = sum((v > w) + 0.5 * (v == w) for v in inside for w in outside)
        auc = wins / len(inside) / len(outside)
        assert float(pixel_auc(attr, mask, order)[i]) == pytest.approx(auc, abs=1e-12)
        assert mannwhitneyu(inside, outside).statistic / len(inside) / len(outside) == pytest.approx(auc)
        top = max(v for v, _ in pixels)
        hits = [hit for v, hit in pixels if v == top]
        assert float(pointing_game(attr, mask, order)[i]) == pytest.approx(sum(hits) / len(hits))


def test_evidence_without_a_positive_part():
    attr = torch.tensor([[[0.1, 0.2], [0.3, 0.4]]])  # everything speaks for a match
    mask = torch.tensor([[[True, False], [False, False]]])
    assert relevance_mass(attr, mask).tolist() == [0.25]  # no dissimilarity to find: as random
    assert pixel_auc(attr, mask).tolist() == [1.0]  # the least similar pixel still ranks first
    assert pointing_game(attr, mask).tolist() == [1.0]


def test_ties_at_the_top_count_by_share():
    attr = torch.tensor([[[-1.0, -1.0], [-1.0, 0.0]]])
    mask = torch.tensor([[[True, False], [True, True]]])
    assert pointing_game(attr, mask).tolist() == [pytest.approx(2 / 3)]
    assert pixel_auc(attr, mask).tolist() == [pytest.approx((0.5 + 0.5 + 0) / 3)]


@every_metric
def test_shapes_masks_and_gradients(metric, mask):
    attr = random_maps().requires_grad_()
    values = metric(attr, mask)
    assert values.shape == (2,)
    assert values.dtype == torch.float64
    assert not values.requires_grad
    assert torch.equal(metric(attr.mean(1), mask), values)
    assert torch.equal(metric(attr, mask.int()), values)
    assert torch.equal(metric(attr, mask.float()), values)
    shared = metric(attr, mask[:1])
    assert torch.equal(shared, metric(attr, mask[:1].expand(2, -1, -1)))
    assert torch.equal(metric(attr[1:], mask[1:]), values[1:])


@every_metric
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"attr": torch.full((2, HEIGHT, WIDTH), float("nan"))}, ValueError, "finite attributions"),
        ({"attr": torch.zeros(HEIGHT, WIDTH)}, ValueError, "attributions \\(N, C, H, W\\)"),
        ({"attr": (torch.zeros(2, HEIGHT, WIDTH),) * 2}, TypeError, "one side"),
        ({"mask": torch.ones(HEIGHT, WIDTH)}, ValueError, r"mask of shape \(2, 5, 7\) or \(1, 5, 7\)"),
        ({"mask": torch.ones(3, HEIGHT, WIDTH)}, ValueError, "mask of shape"),
        ({"mask": torch.ones(2, WIDTH, HEIGHT)}, ValueError, "mask of shape"),
        ({"mask": [[True]]}, TypeError, "mask as a torch.Tensor"),
        ({"mask": torch.full((2, HEIGHT, WIDTH), 0.5)}, ValueError, "mask values 0 or 1"),
        ({"mask": torch.full((2, HEIGHT, WIDTH), float("nan"))}, ValueError, "mask values 0 or 1"),
        ({"order": "different"}, ValueError, "unknown order 'different'"),
    ],
)
def test_bad_input(metric, mask, change, error, message):
    with pytest.raises(error, match=message):
        metric(**{"attr": random_maps(), "mask": mask, "order": "similar", **change})


@every_metric
def test_an_empty_mask_is_named(metric, mask):
    mask[1] = False
    with pytest.raises(ValueError, match="an empty one at index 1"):
        metric(random_maps(), mask)


def test_a_full_mask_ranks_nothing_and_holds_everything(mask):
    mask[1] = True
    with pytest.raises(ValueError, match="a full one at index 1"):
        pixel_auc(random_maps(), mask)
    assert float(relevance_mass(random_maps(), mask)[1]) == 1
    assert float(pointing_game(random_maps(), mask)[1]) == 1
