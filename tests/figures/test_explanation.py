from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from captum_face import show_explanation
from captum_face.figures.explanation import _AGAINST, _FOR, _overlay, decision_text
from captum_face.maps.signed import smooth


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
    for part in ("0.100 < threshold 0.200", "rejected as different people", "fggb", "σ = 2 px", "image A"):
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
    np.testing.assert_allclose(pictures[1], grey * (1 - 0.85 / 3) + _FOR * 0.85 / 3, atol=1e-5)
    np.testing.assert_allclose(pictures[2], np.repeat(grey, 3, 2), atol=1e-5)  # nothing speaks against
    grey = 0.25 + 0.75 * (images[1][0].permute(1, 2, 0).numpy() @ [0.299, 0.587, 0.114])[..., None]
    np.testing.assert_allclose(pictures[5], grey * 0.15 + _AGAINST * 0.85, atol=1e-5)
    bar = figure.axes[6]
    colours = bar.collections[-1].get_cmap()
    np.testing.assert_allclose(colours(1.0)[:3], _FOR, atol=1e-6)
    np.testing.assert_allclose(colours(0.0)[:3], _AGAINST, atol=1e-6)
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


def test_overlay_keeps_the_face_where_nothing_speaks():
    face = np.random.default_rng(0).random((4, 4, 3))
    shown = _overlay(face, np.zeros((4, 4)))
    assert np.ptp(shown, axis=2).max() < 1e-12


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


def test_decision_text_is_inclusive():
    assert "accepted" in decision_text(0.15, 0.15)


def test_scores_that_round_to_the_threshold_get_more_digits():
    assert decision_text(0.29996, 0.3).startswith("score 0.29996 < threshold 0.30000")


def test_comparison_draws_each_side_and_its_outline(pair):
    from captum_face import explain, show_comparison

    generator = torch.Generator().manual_seed(0)
    faces = [torch.rand(1, 3, 112, 112, generator=generator) for _ in range(2)]
    masks = torch.zeros(2, 112, 112, dtype=torch.bool)
    masks[0, 10:20, 10:20] = masks[1, 60:90, 60:90] = True
    explanations = [explain(pair, *faces), explain(pair, *faces, method="corrrise", n_masks=9)]
    figure = show_comparison(explanations, masks=(masks[:1], masks[1:]))
    axes = np.array(figure.axes).reshape(2, 6)
    for row, explanation in zip(axes, explanations, strict=True):
        assert row[0].get_ylabel() == explanation.method
        limit = np.percentile(np.abs(np.stack([m.numpy() for m in explanation.maps])), 99.5)
        for side in range(2):
            picture = faces[side][0].permute(1, 2, 0).numpy()
            np.testing.assert_allclose(row[3 * side].images[0].get_array(), picture, atol=1e-6)
            expected = _overlay(picture, np.clip(explanation.maps[side].numpy() / limit, 0, None))
            np.testing.assert_allclose(row[3 * side + 1].images[0].get_array(), expected, atol=1e-5)
            outline = row[3 * side].collections[0].get_paths()[0].vertices
            assert bool((outline < 25).all()) == (side == 0)
    with pytest.raises(ValueError, match="same two images"):
        show_comparison([explanations[0], explain(pair, faces[1], faces[0])])
    with pytest.raises(ValueError, match="at least one"):
        show_comparison([])
    smoothed = show_comparison(explanations, sigma=3)
    assert "σ = 3 px" in smoothed.get_suptitle()
    maps = [smooth(m[None], 3)[0].numpy() for m in explanations[0].maps]
    scaled = maps[1] / np.percentile(np.abs(np.stack(maps)), 99.5)
    expected = _overlay(faces[1][0].permute(1, 2, 0).numpy(), np.clip(scaled, 0, None))
    np.testing.assert_allclose(smoothed.axes[4].images[0].get_array(), expected, atol=1e-5)
    long = show_comparison([explanations[0]] * 8)
    titles = [axis.get_title() for axis in long.axes]
    assert [row for row in range(8) if titles[6 * row] == "image A"] == [0, 6]
    assert [row for row in range(8) if titles[6 * row + 5] == "speaks against"] == [0, 6]
    other = dataclasses.replace(explanations[1], score=explanations[1].score + 0.1)
    with pytest.raises(ValueError, match="one model's score"):
        show_comparison([explanations[0], other])
