from __future__ import annotations

import io

import matplotlib
import matplotlib.style
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from captum_face import explain, identify, show_comparison, show_explanation, show_identification

HOSTILE = {
    "image.origin": "lower", "image.interpolation": "nearest", "image.cmap": "jet", "image.aspect": "auto",
    "axes.grid": True, "text.usetex": True, "font.size": 31, "savefig.bbox": "tight",
    "savefig.transparent": True,
    "savefig.facecolor": "red", "figure.autolayout": True, "figure.constrained_layout.use": True,
    "axes.titlesize": 40, "axes.titlelocation": "right", "lines.linewidth": 9,
}  # fmt: skip


@pytest.fixture
def maps(images):
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randn(image.shape, generator=generator) for image in images)


def png(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def kinds(pair, images):
    one = tuple(image[:1] for image in images)
    explanation = explain(pair, *one, "random", names=("a_$b^$.png", "b"))
    found = identify(pair, one[0], images[1], "random", top_k=2)
    return [
        explanation.plot,
        lambda **options: show_comparison([explanation] * 2, **options),
        lambda **options: show_comparison([explanation] * 8, **options),
        found.plot,
    ]


def test_the_users_style_changes_nothing(pair, images):
    before = [png(show()) for show in kinds(pair, images)]
    with matplotlib.rc_context(), matplotlib.style.context("dark_background"):
        matplotlib.rcParams.update(HOSTILE)
        after = [png(show()) for show in kinds(pair, images)]
        assert matplotlib.rcParams["image.origin"] == "lower"
    assert before == after


def test_a_figure_shows_itself(pair, images):
    for show in kinds(pair, images):
        with Image.open(io.BytesIO(show()._repr_png_())) as picture:
            assert picture.format == "PNG"
            assert picture.width < 1500


def test_pictures_stand_upright_in_a_callers_axes(images, maps):
    figure = Figure()
    figure.suptitle("mine")
    axes = figure.subplots(2, 3)
    with matplotlib.rc_context({"image.origin": "lower", "text.usetex": True}):
        assert show_explanation(images, maps, axes=axes, score=0.1, names=("a_b", "c")) is figure
    assert all(axis.images[0].origin == "upper" for axis in axes.flat)
    assert figure.get_suptitle() == "mine"
    figure.savefig(io.BytesIO())


def test_a_place_a_size_and_a_title(pair, images):
    for show in kinds(pair, images):
        figure = Figure(figsize=(12, 5))
        left, right = figure.subfigures(1, 2)
        assert show(axes=left) is figure
        assert show(axes=right, title="own_$title") is figure
        assert right.get_suptitle() == "own_$title"
        assert not figure.axes or all(axis.figure in (left, right) for axis in figure.axes)
        assert tuple(show(figsize=(5, 4)).get_size_inches()) == (5, 4)
        assert show(title="").get_suptitle() == ""
        assert "score" in show().get_suptitle().lower()
        png(figure)


def test_colours_opacity_and_contours(images, maps):
    ones = tuple(torch.ones_like(attr) for attr in maps)
    grey = 0.25 + 0.75 * (images[0][0].permute(1, 2, 0).numpy() @ [0.299, 0.587, 0.114])[..., None]
    figure = show_explanation(images, ones, cmap="PuOr", alpha=0.5)
    colour = np.array(matplotlib.colormaps["PuOr"](1.0)[:3])
    np.testing.assert_allclose(figure.axes[1].images[0].get_array(), grey / 2 + colour / 2, atol=1e-5)
    assert figure.axes[6].collections[-1].get_cmap().name == "PuOr"
    assert not figure.axes[1].collections
    planted = tuple(torch.zeros_like(attr) for attr in maps)
    planted[0][..., 4:9, 3:8] = 1.0
    inside = show_explanation(images, planted, contour=0.9).axes[1].collections[0].get_paths()[0].vertices
    assert inside.min() > 2
    assert inside.max() < 9


def test_empty_maps_are_said(images, maps):
    def said(figure):
        return [text.get_text() for axis in figure.axes for text in axis.texts]

    empty = tuple(torch.zeros_like(attr) for attr in maps)
    assert said(show_explanation(images, empty)) == ["empty map: all 0"] * 4
    assert (
        said(show_explanation(images, tuple(attr.abs() for attr in maps)))
        == ["nothing speaks against it"] * 2
    )
    faint = (maps[0].abs(), -1e-3 * maps[1].abs())
    assert said(show_explanation(images, faint)) == [
        "nothing speaks against it",
        "nothing speaks for it",
        "next to nothing",
    ]


def test_a_sheet_shows_the_faces_once(pair, images):
    explanation = explain(pair, *(image[:1] for image in images), "random", names=("a", "b"))
    figure = show_comparison([explanation] * 27)
    assert len(figure.axes) == 2 * 28
    assert [axis.get_title() for axis in figure.axes if axis.get_title()] == ["a", "b"]
    assert [text.get_text() for text in figure.texts].count("Random") == 27
    assert figure.get_figwidth() < 12
    boxes = [axis.get_position() for axis in figure.axes]
    assert all(box.x0 >= 0 and box.x1 <= 1 and box.y0 >= 0 and box.y1 <= 1 for box in boxes)
    assert not any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"cmap": "PuOrr"}, ValueError, "unknown colormap 'PuOrr'.*did you mean 'PuOr"),
        ({"cmap": 3}, TypeError, "expected cmap as a name"),
        ({"alpha": 0}, ValueError, "alpha above 0"),
        ({"alpha": 2}, ValueError, "alpha of at most 1, got 2"),
        ({"alpha": "much"}, TypeError, "alpha as a number"),
        ({"contour": 1.5}, ValueError, "contour of at most 1"),
        ({"figsize": 3}, TypeError, r"figsize as \(width, height\)"),
        ({"figsize": (3, -1)}, ValueError, "figsize above 0"),
        ({"figsize": (3, 3), "axes": Figure()}, ValueError, "figsize or axes, got both"),
        ({"title": 3}, TypeError, "title as a text"),
        ({"axes": "here"}, TypeError, "expected axes as a figure, a subfigure, or 2 x 3 axes"),
        ({"axes": Figure().subplots(2, 2)}, ValueError, "got 4 axes"),
    ],
)
def test_bad_looks(images, maps, options, error, message):
    with pytest.raises(error, match=message):
        show_explanation(images, maps, **options)


def test_figures_that_lay_out_themselves_take_no_axes(pair, images):
    found = identify(pair, images[0][:1], images[1], "random", top_k=1)
    with pytest.raises(TypeError, match="expected axes as a figure or subfigure, got ndarray"):
        show_identification(found, axes=Figure().subplots(2, 3))
