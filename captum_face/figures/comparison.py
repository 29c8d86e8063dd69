"""The figure of several methods' explanations of one pair."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from torch import Tensor

from captum_face.attr.registry import null_baselines
from captum_face.attr.spec import display_name, display_parts
from captum_face.figures import _drawing as draw
from captum_face.figures._look import AnyFigure, Look, require_figsize, require_no_axes, root
from captum_face.figures._style import styled
from captum_face.maps.agreement import Agreement, agreement
from captum_face.pair.scores import decision_text, shown_text

__all__ = ["ExplainedPair", "show_comparison"]

_SIDE = 1.6  # width of a panel in inches
_MOST_ROWS = 6  # more methods are drawn as a sheet
_CELLS = 4  # of a sheet, side by side
_CELL, _GAP, _BETWEEN, _LINE = 1.2, 0.04, 0.16, 0.14  # width of a panel, spaces and a line of text, in inches
_CELL_LETTERS = 38  # of 8 points


class ExplainedPair(Protocol):
    """What a row of a comparison is drawn from, such as an :class:`~captum_face.Explanation`."""

    @property
    def method(self) -> str:
        """What to write beside the row."""

    @property
    def score(self) -> float:
        """The pair's similarity."""

    @property
    def threshold(self) -> float | None:
        """The verification threshold; None if there is none."""

    @property
    def images(self) -> tuple[Tensor, Tensor]:
        """``(1, C, H, W)`` each, in [0, 1]."""

    @property
    def attributions(self) -> tuple[Tensor, Tensor]:
        """``(1, C, H, W)`` each, positive = for the same person."""

    @property
    def names(self) -> tuple[str, str]:
        """What to write above the two images."""

    @property
    def remarks(self) -> Mapping[str, str]:
        """What the title says of how the maps came about, by topic."""


@styled
def show_comparison(
    explanations: Sequence[ExplainedPair],
    *,
    masks: tuple[Tensor, Tensor] | None = None,
    sigma: float = 0.0,
    percentile: float = 99.5,
    cmap: str | Colormap | None = None,
    alpha: float | None = None,
    contour: bool | float = False,
    axes: AnyFigure | None = None,
    figsize: tuple[float, float] | None = None,
    title: str | None = None,
) -> Figure:
    """Draws several methods' explanations of one pair: a row for each, or one sheet for more than six.

    A row shows both photos, each with what speaks for a match and what speaks against. On the sheet the
    photos stand once, and each method has one map for each face, with both signs in it.

    Args:
        explanations: Of the same two images: :class:`~captum_face.Explanation` or anything else with the
            attributes of :class:`~captum_face.figures.ExplainedPair`. Methods measure relevance in different
            units, so each has a scale of its own, shared by the maps of both faces.
        masks: ``(1, H, W)`` or ``(H, W)`` bool for both faces: what is known to differ, drawn as outlines.
        sigma: Smooth the maps by a Gaussian of so many pixels; the title says so.
        percentile: Absolute value at which a row's colour saturates, as a percentile over its maps.
        cmap: Colours of a diverging colormap of matplotlib, by name or itself: its end for the
            same person, its start against. None for blue and red, which any
            colour vision tells apart.
        alpha: Opacity of the strongest colour, above 0 and at most 1; None for 0.85.
        contour: True for lines around what is stronger than half of the scale, or another share of it.
        axes: A figure or subfigure of matplotlib to draw into; None for a new figure.
        figsize: Width and height of the figure in inches; None for what suits the images.
        title: In place of the whole title; empty for none.

    Returns:
        A matplotlib :class:`~matplotlib.figure.Figure`: the one of ``axes``, or a new one outside of pyplot's
        state, which a notebook shows.

    Raises:
        ValueError: no explanations, of different images, or of different models (their scores differ);
            ``cmap``, ``alpha``, ``contour`` or ``figsize`` that do not exist or do not fit.
        TypeError: options of another type.
    """
    look = Look.of(cmap, alpha, contour)
    require_no_axes(axes)
    if not explanations:
        raise ValueError("expected at least one explanation, got none")
    first = explanations[0]
    if any(
        not torch.equal(image, other)
        for e in explanations
        for image, other in zip(first.images, e.images, strict=True)
    ):
        raise ValueError("expected explanations of the same two images, got different ones")
    if any(not math.isclose(first.score, e.score, rel_tol=1e-3, abs_tol=1e-3) for e in explanations):
        scores = ", ".join(f"{e.method} {shown_text(e.score)}" for e in explanations)
        raise ValueError(f"expected explanations of one model's score, got different ones: {scores}")
    notes = [
        "each method has its own scale",
        draw.smoothing_note(sigma),
        str(found) if (found := compared(explanations)) is not None else "",
        *_remarks(explanations),
        "outlined: what was changed" if masks is not None else "",
    ]
    sentence = decision_text(first.score, first.threshold)
    drawn = []
    for explanation in explanations:
        pictures, maps = draw.pictures_and_maps(explanation.images, explanation.attributions, sigma)
        limit = draw.saturation(maps, percentile)
        drawn.append((explanation.method, [signed / limit for signed in maps]))
    arrange = _rows if len(drawn) <= _MOST_ROWS else _sheet
    return arrange(pictures, first.names, drawn, masks, look, sentence, notes, axes, figsize, title)


def _rows(
    pictures: list[np.ndarray],
    names: tuple[str, str],
    drawn: list[tuple[str, list[np.ndarray]]],
    masks: tuple[Tensor, Tensor] | None,
    look: Look,
    sentence: str,
    notes: list[str],
    place: AnyFigure | None,
    figsize: tuple[float, float] | None,
    title: str | None,
) -> Figure:
    """A row for each method: photo, for and against, for both faces."""
    height = _SIDE * pictures[0].shape[0] / pictures[0].shape[1]
    size = require_figsize(figsize, (6 * _SIDE + 1.2, len(drawn) * height + 0.8), place)
    figure, axes = draw.new_grid(len(drawn), 6, size, place=place)
    for row, (method, maps) in enumerate(drawn):
        label, small = _row_label(method)
        draw.draw_label(axes[row, 0], label, 7.5 if small else 10)
        for side, panels in enumerate((axes[row, :3], axes[row, 3:])):
            heading = names[side] if row == 0 else None
            draw.draw_row(panels, pictures[side], maps[side], heading, look)
    for side, mask in enumerate(masks or ()):
        draw.draw_outline(axes[:, 3 * side : 3 * side + 3], mask)
    draw.title(figure, sentence, notes, own=title, place=place)
    return root(figure)


def _sheet(
    pictures: list[np.ndarray],
    names: tuple[str, str],
    drawn: list[tuple[str, list[np.ndarray]]],
    masks: tuple[Tensor, Tensor] | None,
    look: Look,
    sentence: str,
    notes: list[str],
    place: AnyFigure | None,
    figsize: tuple[float, float] | None,
    title: str | None,
) -> Figure:
    """A cell for each method, with a map for each face, behind a cell with the photos."""
    cells = [("", None), *drawn]
    rows = -(-len(cells) // _CELLS)
    labels = [_cell_label(method) for method, _ in cells]
    lines = [max(label.count("\n") + 1 for label in labels[row * _CELLS :][:_CELLS]) for row in range(rows)]
    # All in inches; a caller's figure takes the same proportions.
    height = _CELL * pictures[0].shape[0] / pictures[0].shape[1]
    width = _CELLS * (2 * _CELL + _GAP) + (_CELLS + 1) * _BETWEEN
    notes = ["blue: for the same person, red: against" if look.colours is None else "", *notes]
    figure = draw.new_figure((width, 4.0)) if place is None else place
    said = draw.title_lines(figure, sentence, notes, 10) if title is None else title.splitlines()
    top = 0.19 * len(said) + 0.12
    whole = top + rows * (height + _BETWEEN) + _LINE * sum(lines)
    if place is None:
        figure = draw.new_figure(require_figsize(figsize, (width, whole), None))
        figure.set_layout_engine("none")
    text = draw.title(figure, sentence, notes, own=title, place=place)
    if text is not None:
        text.set(y=1 - 0.08 / whole, verticalalignment="top")
    above = top
    for row in range(rows):
        above += _LINE * lines[row]
        for column, (_, maps) in enumerate(cells[row * _CELLS :][:_CELLS]):
            left = _BETWEEN + column * (2 * _CELL + _GAP + _BETWEEN)
            for side, picture in enumerate(pictures):
                x = left + side * (_CELL + _GAP)
                panel = figure.add_axes(
                    (x / width, 1 - (above + height) / whole, _CELL / width, height / whole)
                )
                draw.bare(panel)
                if maps is None:
                    draw.draw_picture(panel, picture, _ending(names[side]), fontsize=8)
                else:
                    draw.draw_map(panel, picture, maps[side], look, draw.ALL_ZERO)
                if masks is not None:
                    draw.draw_outline(np.array([panel]), masks[side])
            if maps is not None:
                middle = (left + _CELL + _GAP / 2) / width
                draw.write(figure, middle, 1 - (above - 0.05) / whole, labels[row * _CELLS + column], 8)
        above += height + _BETWEEN
    return root(figure)


def _cell_label(method: str) -> str:
    """A method's name, and its options in lines below, as wide as a cell."""
    name, options = display_parts(method)
    return "\n".join([*textwrap.wrap(name, _CELL_LETTERS), *textwrap.wrap(", ".join(options), _CELL_LETTERS)])


def _ending(name: str, length: int = 18) -> str:
    """File names end in what tells them apart."""
    return name if len(name) <= length else "…" + name[-(length - 1) :]


def compared(explanations: Sequence[ExplainedPair]) -> Agreement | None:
    """How much the methods agree; null baselines, which explain nothing, are left out."""
    nulls = null_baselines()
    return agreement([e.attributions for e in explanations if e.method.partition(":")[0] not in nulls])


def _remarks(explanations: Sequence[ExplainedPair]) -> list[str]:
    """What is to be said of all rows, and then of some: once, with the methods that it is about."""
    shared = [
        remark
        for remark in dict.fromkeys(r for e in explanations for r in e.remarks.values())
        if all(remark in e.remarks.values() for e in explanations)
    ]
    methods: dict[str, list[str]] = {}
    for explanation in explanations:
        own = [remark for remark in explanation.remarks.values() if remark not in shared]
        if own:
            methods.setdefault(", ".join(own), []).append(display_name(explanation.method))
    return [*shared, *(f"{', '.join(who)}: {said}" for said, who in methods.items())]


def _row_label(method: str) -> tuple[str, bool]:
    """A method's name in lines of 14 letters, its options below, and whether that asks for small letters."""
    name, options = display_parts(method)
    lines = [*textwrap.wrap(name, 14), *options]
    return "\n".join(lines), bool(options)
