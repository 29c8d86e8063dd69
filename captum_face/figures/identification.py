"""The figure of an identification."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from torch import Tensor

from captum_face._validation import require_positive_int
from captum_face.attr.spec import display_name
from captum_face.figures import _drawing as draw
from captum_face.figures._look import AnyFigure, Look, require_figsize, require_no_axes, root
from captum_face.figures._style import styled
from captum_face.pair.scores import decision_word, shown_text

__all__ = ["ExplainedMatch", "ExplainedSearch", "show_identification"]

_SIDE = 1.7  # width of a panel in inches
_PARTS = (
    "what in the probe\nspeaks for the match",
    "what in the probe\nspeaks against it",
    "what in the match's\nimage speaks for it",
    "what in the match's\nimage speaks against it",
)


class ExplainedMatch(Protocol):
    """One match of an :class:`ExplainedSearch`, such as a :class:`~captum_face.Match`."""

    @property
    def name(self) -> str:
        """Name of the gallery image."""

    @property
    def score(self) -> float:
        """The probe's similarity to it."""

    @property
    def image(self) -> Tensor:
        """``(1, C, H, W)`` in [0, 1]."""

    @property
    def attribution(self) -> Tensor:
        """``(1, C, H, W)``: the probe's map against it, positive = for the same person."""

    @property
    def own_attribution(self) -> Tensor | None:
        """Its own map against the probe; None for all matches, or for none of them."""


class ExplainedSearch(Protocol):
    """A probe and its matches, such as an :class:`~captum_face.Identification`."""

    @property
    def method(self) -> str:
        """What the title calls the method."""

    @property
    def threshold(self) -> float | None:
        """The threshold from which a match is accepted; None if there is none."""

    @property
    def probe(self) -> Tensor:
        """``(1, C, H, W)`` in [0, 1]."""

    @property
    def name(self) -> str:
        """What to write above the probe."""

    @property
    def matches(self) -> Sequence[ExplainedMatch]:
        """The best first."""

    @property
    def verdict(self) -> str:
        """The decision in words, for the title."""

    @property
    def remarks(self) -> Mapping[str, str]:
        """What the title says of how the maps came about, by topic."""


@styled
def show_identification(
    identification: ExplainedSearch,
    *,
    columns: int = 5,
    sigma: float = 0.0,
    percentile: float = 99.5,
    cmap: str | Colormap | None = None,
    alpha: float | None = None,
    contour: bool | float = False,
    axes: AnyFigure | None = None,
    figsize: tuple[float, float] | None = None,
    title: str | None = None,
) -> Figure:
    """Draws a probe and its best matches, each with what in the probe speaks for it and against.

    A column for each match: its photo with rank, name and score, and below it the probe with the similarity
    and the dissimilarity map of that match. Where matches were explained too, their own maps stand below.
    All maps share one scale, so that colours compare across matches.

    Args:
        identification: From :func:`~captum_face.identify`, or anything else with the attributes of
            :class:`~captum_face.figures.ExplainedSearch`.
        columns: Matches side by side; more go below.
        sigma: Smooth the maps by a Gaussian of so many pixels; the title says so. 0 shows them as they are.
        percentile: Absolute value at which the colour saturates, as a percentile over all maps.
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
        ValueError: ``columns`` below 1; ``cmap``, ``alpha``, ``contour`` or ``figsize`` that do not exist or
            do not fit.
        TypeError: options of another type.
    """
    look = Look.of(cmap, alpha, contour)
    require_no_axes(axes)
    require_positive_int(columns, "columns")
    matches = identification.matches
    columns = min(columns, len(matches))
    probe = draw.as_picture(identification.probe[0])
    faces = [draw.as_picture(match.image[0]) for match in matches]
    maps = [draw.signed_map(match.attribution, sigma) for match in matches]
    own = [draw.signed_map(m.own_attribution, sigma) for m in matches if m.own_attribution is not None]
    limit = draw.saturation(maps + own, percentile)
    per_band = 5 if own else 3
    bands = -(-len(matches) // columns)
    height = _SIDE * probe.shape[0] / probe.shape[1]
    size = (columns + 1) * _SIDE + 1.0, bands * (per_band * height + 0.45) + 0.6
    size = require_figsize(figsize, size, axes)
    figure, grid = draw.new_grid(bands * per_band, columns + 1, size, place=axes)
    label = "probe" if identification.name == "probe" else f"probe\n{_short(identification.name)}"
    for rows in grid.reshape(bands, per_band, columns + 1):
        draw.draw_picture(rows[0, 0], probe, label, fontsize=8.5)
        for row, text in zip(rows[1:, 0], _PARTS, strict=False):
            row.text(
                0.95, 0.5, text, transform=row.transAxes, ha="right", va="center", fontsize=8.5, usetex=False
            )
    for index, (match, face) in enumerate(zip(matches, faces, strict=True)):
        band, column = divmod(index, columns)
        panels = grid[band * per_band : (band + 1) * per_band, column + 1]
        word = decision_word(match.score, identification.threshold)
        reads = shown_text(match.score)
        heading = f"{index + 1}. {_short(match.name)}\n{reads}{f': {word}' if word else ''}"
        draw.draw_picture(panels[0], face, heading, fontsize=8.5)
        draw.draw_evidence(panels[1:3], probe, maps[index] / limit, look)
        if own:
            draw.draw_evidence(panels[3:5], face, own[index] / limit, look)
    draw.colour_bar(figure, grid, limit, fontsize=8, look=look, shrink=0.8, pad=0.02, aspect=32)
    notes = [
        display_name(identification.method),
        *identification.remarks.values(),
        draw.smoothing_note(sigma),
        "all maps on one scale",
    ]
    draw.title(figure, identification.verdict, notes, own=title, place=axes)
    return root(figure)


def _short(name: str, length: int = 22) -> str:
    """File names end in what tells them apart."""
    return name if len(name) <= length else "…" + name[-(length - 1) :]
