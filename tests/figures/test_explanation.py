from __future__ import annotations

import numpy as np
import pytest
import torch

from captum_face import show_explanation
from captum_face.figures._drawing import AGAINST, FOR


@pytest.fixture
def attributions(images):
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randn(image.shape, generator=generator) for image in images)


def texts(figure):
    axes = [text for axis in figure.axes for text in (axis.get_title(), axis.get_ylabel())]
    return " | ".join([figure.get_suptitle(), *axes])


def test_figure_says_score_threshold_decision_and_method(images, attributions):
    figure = show_explanation(images, attributions, score=0.1, threshold=0.2, method="fggb", sigma=2)
    said = texts(figure)
    for part in ("0.100 < threshold 0.200", "rejected as different people", "FGGB", "σ = 2 px", "image A"):
        assert part in said
    figure = show_explanation(images, attributions, score=0.2, threshold=0.2)
    assert "accepted as the same person" in texts(figure)
    assert "smoothed" not in texts(figure)


def test_one_scale_for_both_faces_and_both_signs(images):
    """A map of 1 and a map of -3: the second saturates, the first takes a third of the colour."""
    attributions = (torch.full_like(images[0], 1.0), torch.full_like(images[1], -3.0))
    figure = show_explanation(images, attributions)
    pictures = [axis.images[0].get_array() for axis in figure.axes[:6]]
    grey = 0.25 + 0.75 * (images[0][0].permute(1, 2, 0).numpy() @ [0.299, 0.587, 0.114])[..., None]
    np.testing.assert_allclose(pictures[1], grey * (1 - 0.85 / 3) + FOR * 0.85 / 3, atol=1e-5)
    np.testing.assert_allclose(pictures[2], np.repeat(grey, 3, 2), atol=1e-5)  # nothing speaks against
    grey = 0.25 + 0.75 * (images[1][0].permute(1, 2, 0).numpy() @ [0.299, 0.587, 0.114])[..., None]
    np.testing.assert_allclose(pictures[5], grey * 0.15 + AGAINST * 0.85, atol=1e-5)
    bar = figure.axes[6]
    colours = bar.collections[-1].get_cmap()
    np.testing.assert_allclose(colours(1.0)[:3], FOR, atol=1e-6)
    np.testing.assert_allclose(colours(0.0)[:3], AGAINST, atol=1e-6)
    assert bar.get_ylim() == pytest.approx((-3, 3))


def test_zero_maps_and_a_chosen_pair(images, attributions):
    empty = tuple(torch.zeros_like(attr) for attr in attributions)
    assert show_explanation(images, empty).axes
    figure = show_explanation(images, attributions, index=2)
    np.testing.assert_allclose(
        figure.axes[0].images[0].get_array(), images[0][2].permute(1, 2, 0).numpy(), atol=1e-6
    )
    one_against_all = show_explanation((images[0][:1], images[1]), attributions, index=2)
    np.testing.assert_allclose(
        one_against_all.axes[0].images[0].get_array(), images[0][0].permute(1, 2, 0).numpy(), atol=1e-6
    )


def test_grey_images(images, attributions):
    assert show_explanation(tuple(i[:, :1] for i in images), tuple(a[:, :1] for a in attributions)).axes


@pytest.mark.parametrize(
    ("change", "options", "error", "message"),
    [
        (lambda a: (a[0][:2], a[1]), {}, ValueError, "attributions for images"),
        (lambda a: (a[0][..., 1:], a[1]), {}, ValueError, "attributions for images"),
        (lambda a: a[0], {}, TypeError, "pair"),
        (lambda a: (a[0] * float("nan"), a[1]), {}, ValueError, "finite"),
        (lambda a: a, {"index": 3}, ValueError, "batch of 3 pairs"),
    ],
)
def test_bad_input(images, attributions, change, options, error, message):
    with pytest.raises(error, match=message):
        show_explanation(images, change(attributions), **options)
