from __future__ import annotations

import dataclasses

import pytest
import torch
from matplotlib.figure import Figure

from captum_face import PairSimilarity, identify, show_identification
from tests.conftest import small_net


@pytest.fixture
def found(pair, images):
    return identify(pair, images[0][:1], images[1], "corrrise", top_k=2, both=True, n_masks=12)


def texts(figure):
    return [text.get_text() for axis in figure.axes for text in axis.texts]


def test_a_band_for_each_row_of_matches(found):
    figure = show_identification(found, columns=1)
    assert isinstance(figure, Figure)
    assert len(figure.axes) == 2 * 5 * 2 + 1  # bands, panels of a match, columns, and the colour bar
    titles = [axis.get_title() for axis in figure.axes if axis.get_title()]
    assert [title.split("\n")[0] for title in titles] == [
        "probe",
        f"1. {found.matches[0].name}",
        "probe",
        f"2. {found.matches[1].name}",
    ]
    said = texts(figure)
    assert sum("what in the probe" in text for text in said) == 4
    assert sum("what in the match's" in text for text in said) == 4
    with pytest.raises(ValueError, match="columns"):
        show_identification(found, columns=0)


def test_matches_by_distance(images):
    pair = PairSimilarity(small_net().eval(), score="euclidean", threshold=1e6)
    found = identify(pair, images[0][:1], images[1], "corrrise", top_k=2, n_masks=12)
    figure = show_identification(found)
    headings = [axis.get_title().split("\n")[1] for axis in figure.axes if axis.get_title()[:1] in ("1", "2")]
    with torch.no_grad():
        away = torch.cdist(pair.embed(images[0][:1]), pair.embed(images[1]))[0].sort().values
    assert headings == [f"distance {distance:.3f}: accepted" for distance in away[:2].tolist()]
    assert f"distance {away[0]:.3f} ≤ threshold 1000000.000" in figure._suptitle.get_text()


def test_maps_of_nothing_are_said_to_be_empty(found):
    match = found.matches[0]
    empty = type(match)(match.name, match.score, match.image, torch.zeros_like(match.attribution))
    figure = show_identification(dataclasses.replace(found, name="x" * 40, matches=(empty,)))
    assert texts(figure).count("empty map: all 0") == 2
    assert any(axis.get_title().endswith("x" * 21) and "…" in axis.get_title() for axis in figure.axes)
