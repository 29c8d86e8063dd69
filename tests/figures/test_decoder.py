from __future__ import annotations

import pytest
import torch

from captum_face import PairSimilarity
from captum_face.data import synthetic
from captum_face.decoder import channel_regions, counterfactual, shipped_decoder
from captum_face.figures import show_channels, show_counterfactual, show_reconstructions
from captum_face.models import load_pair
from tests.conftest import small_decoder, small_net


@pytest.fixture(scope="module")
def faces():
    return synthetic.pairs(4).image_a


def test_reconstructions_are_drawn(faces):
    figure = show_reconstructions(load_pair("synthetic"), shipped_decoder(), faces)
    assert len(figure.axes) == 8


def test_channels_are_drawn(faces):
    found = channel_regions(load_pair("synthetic"), faces, directions=3)
    assert len(show_channels(found, faces, count=2).axes) == 2


def test_counterfactuals_are_drawn(pair, images):
    a, b = (image[:1] for image in images)
    pair.threshold = 0.99
    found = counterfactual(pair, a, b, decoder=small_decoder(), steps=3)
    assert len(show_counterfactual(found).axes) == 2 * (len(found.counts) + 2)
    pair.score.limits, pair.threshold = (-1, 2), 1.5
    found = counterfactual(pair, a, b, decoder=small_decoder())
    assert "not even all" in show_counterfactual(found)._suptitle.get_text()


def test_counterfactuals_by_distance(images):
    a, b = (image[:1] for image in images)
    pair = PairSimilarity(small_net().eval(), score="euclidean")
    with torch.no_grad():
        away = (pair.embed(a) - pair.embed(b)).norm().item()
    pair.threshold = away / 2
    found = counterfactual(pair, a, b, decoder=small_decoder(), steps=3)
    figure = show_counterfactual(found)
    assert f"Distance {away:.3f} > threshold {away / 2:.3f}: rejected" in figure._suptitle.get_text()
    headings = [axis.get_title() for axis in figure.axes if "from B" in axis.get_title()]
    assert [heading.split("\n")[1] for heading in headings] == [
        f"distance {(-score) ** 0.5:.2f}" for score in found.scores.tolist()
    ]
    assert headings[-1].split("\n")[1] == "distance 0.00"


def test_titles_stay_inside_narrow_figures(faces):
    pair = load_pair("synthetic")
    two = synthetic.pair(seed=0, same=False)
    figures = [
        show_reconstructions(pair, shipped_decoder(), faces[:2]),
        show_channels(channel_regions(pair, faces[:1]), faces[:1], count=4, columns=2),
        show_counterfactual(counterfactual(pair, two.image_a, two.image_b, steps=1)),
    ]
    for figure in figures:
        figure.draw_without_rendering()
        title = figure._suptitle.get_window_extent()
        assert title.x0 >= 0
        assert title.x1 <= figure.bbox.width
