"""The figure of one explained pair."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from torch import Tensor

from captum_face.attr.spec import display_name
from captum_face.figures import _drawing as draw
from captum_face.figures._look import Look, Place, require_figsize, root
from captum_face.figures._style import styled

__all__ = ["show_explanation"]

_SIDE = 2.0  # width of a panel in inches


@styled
def show_explanation(
    inputs: tuple[Tensor, Tensor],
    attributions: tuple[Tensor, Tensor],
    *,
    score: float | None = None,
    threshold: float | None = None,
    method: str | None = None,
    names: tuple[str, str] = ("image A", "image B"),
    remarks: Sequence[str] = (),
    index: int = 0,
    sigma: float = 0.0,
    percentile: float = 99.5,
    cmap: str | Colormap | None = None,
    alpha: float | None = None,
    contour: bool | float = False,
    axes: Place | None = None,
    figsize: tuple[float, float] | None = None,
    title: str | None = None,
) -> Figure:
    """Draws a pair with what speaks for a match and what speaks against it.

    A row for each face: the photo, the similarity map and the dissimilarity map laid over it in grey.
    All four maps share one scale, so that colours compare across faces and signs.

    Args:
        inputs: ``(image_a, image_b)``, each ``(N, C, H, W)`` in [0, 1]; a batch of 1 stands against N.
        attributions: What a method's ``attribute(inputs)`` gave.
        score: The pair's score; with ``threshold`` the title states the decision in words.
        threshold: The verification threshold; without one nothing is decided, and the title says so.
        method: Name of the method for the title, or its text as for :func:`~captum_face.explain`, which is
            turned into the method's name: see :func:`~captum_face.attr.spec.display_name`.
        names: What to write beside the two faces.
        remarks: What the title says of how the maps came about.
        index: Which pair of the batch.
        sigma: Smooth the maps by a Gaussian of so many pixels; the title says so. 0 shows them as they are.
        percentile: Absolute value at which the colour saturates, as a percentile over both maps.
        cmap: Colours of a diverging colormap of matplotlib, by name or itself: its end for the
            same person, its start against. None for blue and red, which any
            colour vision tells apart.
        alpha: Opacity of the strongest colour, above 0 and at most 1; None for 0.85.
        contour: True for lines around what is stronger than half of the scale, or another share of it.
        axes: Where to draw: a figure or subfigure of matplotlib, or 2 x 3 axes. None for a new figure. Into
            axes no title is drawn unless you give one.
        figsize: Width and height of the figure in inches; None for what suits the images.
        title: In place of the whole title; empty for none.

    Returns:
        A matplotlib :class:`~matplotlib.figure.Figure`, ready for ``savefig``: the one of ``axes``, or a new
        one outside of pyplot's state, which a notebook shows.

    Raises:
        ValueError: attributions that don't fit the inputs, NaN, an index beyond the batch;
            ``cmap``, ``alpha``, ``contour``, ``axes`` or ``figsize`` that do not exist or do not fit.
        TypeError: attributions that are no pair; options of another type.
    """
    look = Look.of(cmap, alpha, contour)
    pictures, maps = draw.pictures_and_maps(inputs, attributions, sigma, index)
    limit = draw.saturation(maps, percentile)
    height = _SIDE * pictures[0].shape[0] / pictures[0].shape[1]
    size = require_figsize(figsize, (3 * _SIDE + 1.2, 2 * height + 0.8), axes)
    figure, panels = draw.new_grid(2, 3, size, place=axes)
    for row, (picture, signed, name) in enumerate(zip(pictures, maps, names, strict=True)):
        draw.draw_label(panels[row, 0], name, 10)
        draw.draw_row(panels[row], picture, signed / limit, "" if row == 0 else None, look)
    draw.colour_bar(figure, panels, limit, look=look, shrink=0.9, pad=0.02, aspect=32)
    notes = ["" if method is None else display_name(method), *remarks, draw.smoothing_note(sigma)]
    draw.title(figure, draw.score_text(score, threshold), notes, fontsize=11, own=title, place=axes)
    return root(figure)
