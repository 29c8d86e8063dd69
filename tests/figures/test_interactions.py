from __future__ import annotations

import pytest
import torch

from captum_face import show_interactions


def drawn(figure):
    return [artist for artist in figure.artists if hasattr(artist, "xy1")]


def test_the_figure_draws_the_strongest_connections(images):
    joint = torch.zeros(3, 6, 6)
    joint[1, 0, 5], joint[1, 2, 3], joint[1, 4, 4] = 0.5, -1.0, 0.1
    figure = show_interactions(images, joint, grid=(3, 2), strongest=2, index=1, score=0.3, threshold=0.2)
    weak, strong = drawn(figure)
    assert (weak.xy1, weak.xy2) == ((3.0, 2.5), (10.0, 14.5))  # upper left region to lower right
    assert (strong.xy1, strong.xy2) == ((3.0, 8.5), (10.0, 8.5))
    assert strong.get_linewidth() > weak.get_linewidth()
    assert strong.get_alpha() > weak.get_alpha()
    assert weak.get_edgecolor()[2] > weak.get_edgecolor()[0]  # blue for
    assert strong.get_edgecolor()[0] > strong.get_edgecolor()[2]  # red against
    assert "83% of what speaks for, 100% of what speaks against" in figure.get_supxlabel()
    assert figure.get_suptitle() == "Score 0.300 ≥ threshold 0.200: accepted as the same person"


def test_the_figure_of_nothing_and_of_all(images, tmp_path):
    assert not drawn(show_interactions(images, torch.zeros(3, 6, 6), grid=(3, 2)))
    figure = show_interactions(images, torch.ones(3, 1, 1), grid=(1, 1))
    assert len(drawn(figure)) == 1
    figure.savefig(tmp_path / "figure.png")


@pytest.mark.parametrize(
    ("change", "message"),
    [({"grid": (2, 2)}, r"expected interactions \(3, 4, 4\)"), ({"index": 3}, "batch of 3 pairs"),
     ({"strongest": 0}, "strongest"), ({"interactions": torch.full((3, 6, 6), float("nan"))}, "finite"),
     ({"interactions": [1]}, "expected interactions as a tensor")],
)  # fmt: skip
def test_bad_figures(images, change, message):
    options = {"interactions": torch.ones(3, 6, 6), "grid": (3, 2), **change}
    with pytest.raises((ValueError, TypeError), match=message):
        show_interactions(images, options.pop("interactions"), **options)
