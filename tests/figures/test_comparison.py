from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
import pytest
import torch

from captum_face import explain, show_comparison
from captum_face.figures._drawing import overlay
from captum_face.maps.signed import smooth


def test_comparison_draws_each_side_and_its_outline(pair):
    generator = torch.Generator().manual_seed(0)
    faces = [torch.rand(1, 3, 112, 112, generator=generator) for _ in range(2)]
    masks = torch.zeros(2, 112, 112, dtype=torch.bool)
    masks[0, 10:20, 10:20] = masks[1, 60:90, 60:90] = True
    explanations = [explain(pair, *faces), explain(pair, *faces, method="corrrise", n_masks=9)]
    figure = show_comparison(explanations, masks=(masks[:1], masks[1:]))
    axes = np.array(figure.axes).reshape(2, 6)
    for row, explanation in zip(axes, explanations, strict=True):
        assert row[0].get_ylabel() == {"fggb": "FGGB", "corrrise": "CorrRISE"}[explanation.method]
        limit = np.percentile(np.abs(np.stack([m.numpy() for m in explanation.maps])), 99.5)
        for side in range(2):
            picture = faces[side][0].permute(1, 2, 0).numpy()
            np.testing.assert_allclose(row[3 * side].images[0].get_array(), picture, atol=1e-6)
            expected = overlay(picture, np.clip(explanation.maps[side].numpy() / limit, 0, None))
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
    expected = overlay(faces[1][0].permute(1, 2, 0).numpy(), np.clip(scaled, 0, None))
    np.testing.assert_allclose(smoothed.axes[4].images[0].get_array(), expected, atol=1e-5)
    other = dataclasses.replace(explanations[1], score=explanations[1].score + 0.1)
    with pytest.raises(ValueError, match="one model's score"):
        show_comparison([explanations[0], other])


def test_rows_of_plain_data(images):
    """Anything with the attributes of an explanation is a row."""

    class Row(NamedTuple):
        method: str
        score: float
        threshold: float
        images: tuple
        attributions: tuple
        names: tuple
        remarks: dict

    pair = tuple(image[:1] for image in images)
    maps, names = tuple(image - 0.5 for image in pair), ("ann", "bob")
    rows = [Row(name, 0.4, 0.3, pair, maps, names, {"cohort": "cohort: Ann"}) for name in "xy"]
    rows.append(Row("z", 0.4, 0.3, pair, maps, names, {}))
    figure = show_comparison(rows)
    assert "accepted as the same person" in figure.get_suptitle()
    title = " ".join(figure.get_suptitle().split())
    assert "x, y: cohort: Ann" in title
    assert "agreement of 3 methods 1.00 (1: same order of pixels, 0: unrelated; noise stays below" in title
    assert [figure.axes[i].get_title() for i in (0, 3)] == ["ann", "bob"]
    assert [figure.axes[i].get_ylabel() for i in (0, 6, 12)] == ["x", "y", "z"]


@pytest.mark.parametrize(
    ("method", "label"),
    [
        ("integrated_gradients_blurred", "Integrated\ngradients from\na blurred\nimage"),
        ("corrrise:n_masks=100", "CorrRISE\nn_masks=100"),
        (
            "captum.attr.IntegratedGradients:n_steps=10,smooth=3",
            "Captum\nIntegrated\nGradients\nn_steps=10\nsmooth=3",
        ),
    ],
)
def test_options_stand_below_the_name(method, label):
    from captum_face.figures.comparison import _row_label

    assert _row_label(method)[0] == label
