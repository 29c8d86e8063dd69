from __future__ import annotations

import pytest
import torch

from captum_face.attr.rise import RISE, mean_score_map
from captum_face.engines.masks import random_grids


@pytest.mark.parametrize("centered", [True, False])
def test_closed_form(pair, images, centered):
    pair.double()
    a, b = (image.double() for image in images)
    masks = random_grids(30, (18, 14), grid=4, generator=torch.Generator().manual_seed(1)).double()
    attr_a, attr_b = RISE(pair).attribute((a, b), masks=masks, centered=centered)
    with torch.no_grad():
        for i in range(3):
            scores_a = torch.tensor([pair(a[i, None] * m, b[i, None]).item() for m in masks]).double()
            scores_b = torch.tensor([pair(a[i, None], b[i, None] * m).item() for m in masks]).double()
            for attr, scores in ((attr_a, scores_a), (attr_b, scores_b)):
                expected = torch.zeros(18, 14, dtype=torch.float64)
                for s, m in zip(scores, masks, strict=True):
                    expected += s * m
                expected = expected / masks.sum(0) - (scores.mean() if centered else 0)
                for channel in range(3):
                    torch.testing.assert_close(attr[i, channel], expected, rtol=1e-6, atol=1e-8)


def test_positive_where_seeing_raises_the_score():
    a = torch.ones(1, 3, 28, 28)
    for sign in (1, -1):
        attr, untouched = RISE(lambda x, y, s=sign: s * x[:, 0, 14, 9]).attribute((a, a), n_masks=300, seed=0)
        assert sign * attr[0, 0, 14, 9] > 0.2
        assert (sign * attr[0, 0]).argmax() in [y * 28 + x for y in (13, 14, 15) for x in (8, 9, 10)]
        assert untouched.abs().max() < 1e-6


def test_a_constant_score_is_zero_and_hidden_pixels_are_zero():
    scores = torch.tensor([[0.4, 0.4, 0.4]])
    masks = torch.tensor([[[1.0, 0.0, 0.2]]] * 3)
    torch.testing.assert_close(mean_score_map(scores, masks), torch.zeros(1, 1, 3, dtype=torch.float64))
    uncentered = mean_score_map(scores, masks, centered=False)
    torch.testing.assert_close(uncentered[0, 0], torch.tensor([0.4, 0.0, 0.4]).double(), rtol=1e-6, atol=0)


def test_grids_are_kept_with_their_probability_and_shifted():
    masks = random_grids(400, (40, 56), grid=5, probability=0.3, generator=torch.Generator().manual_seed(0))
    assert masks.shape == (400, 40, 56)
    assert masks.min() >= 0
    assert masks.max() <= 1
    # Every pixel, at the border as in the middle: the shift leaves no cell favoured.
    assert (masks.mean(0) - 0.3).abs().max() < 0.09
    assert float(masks.mean()) == pytest.approx(0.3, abs=0.02)
    # Bilinear: neighbours differ by at most one over the side of a cell.
    assert masks.diff(dim=1).abs().max() <= 1 / 8 + 1e-6


def test_grids_reach_the_border_where_cells_do_not_divide_the_image():
    masks = random_grids(50, (18, 14), grid=4, generator=torch.Generator().manual_seed(0))
    assert (masks[:, -1].std(0) > 0).all()
    assert (masks[:, :, -1].std(0) > 0).all()


def test_baselines_fill_what_is_hidden(images):
    seen = []

    def spy(a, b):
        seen.append(a)
        return a.mean((1, 2, 3))

    masks = torch.tensor([1.0, 0.25])[:, None, None].expand(2, 18, 14)
    a, b = (image[:1] for image in images)
    RISE(spy).attribute((a, b), masks=masks, baselines=0.5)
    torch.testing.assert_close(seen[0], torch.cat([a, 0.25 * a + 0.75 * 0.5]))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n_masks": 0}, ValueError, "n_masks"),
        ({"grid": 0}, ValueError, "grid"),
        ({"grid": 15}, ValueError, "one cell a pixel of 18x14"),
        ({"probability": 0}, ValueError, "between 0 and 1"),
        ({"probability": float("nan")}, ValueError, "between 0 and 1"),
        ({"masks": torch.ones(5, 8, 8)}, ValueError, "size of the images"),
        ({"masks": "grid"}, TypeError, "masks as a torch.Tensor"),
        ({"perturbations_per_eval": 0}, ValueError, "perturbations_per_eval"),
        ({"seed": 1, "generator": torch.Generator()}, ValueError, "got both"),
        ({"baselines": 255}, ValueError, r"in \[0, 1\]"),
    ],
)
def test_bad_options_before_any_score(images, options, error, message):
    def never(a, b):
        raise AssertionError("scored before the options were checked")

    with pytest.raises(error, match=message):
        RISE(never).attribute(images, **options)
