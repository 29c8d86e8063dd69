"""The figure of one explained pair."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from torch import Tensor

from captum_face._files import printable
from captum_face.attr.spec import display_name
from captum_face.figures import _drawing as draw

__all__ = ["show_explanation"]

_SIDE = 2.0  # width of a panel in inches


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

    Returns:
        A matplotlib :class:`~matplotlib.figure.Figure` outside of pyplot's state, ready for
        ``savefig``; a notebook shows it.

    Raises:
        ValueError: attributions that don't fit the inputs, NaN, an index beyond the batch.
    """
    pictures, maps = draw.pictures_and_maps(inputs, attributions, sigma, index)
    limit = draw.saturation(maps, percentile)
    height = _SIDE * pictures[0].shape[0] / pictures[0].shape[1]
    figure, axes = draw.new_grid(2, 3, (3 * _SIDE + 1.2, 2 * height + 0.8))
    for row, (picture, signed, name) in enumerate(zip(pictures, maps, names, strict=True)):
        axes[row, 0].set_ylabel(printable(name), fontsize=10, parse_math=False)
        draw.draw_row(axes[row], picture, signed / limit, "" if row == 0 else None)
    draw.colour_bar(figure, axes, limit, shrink=0.9, pad=0.02, aspect=32)
    notes = ["" if method is None else display_name(method), *remarks, draw.smoothing_note(sigma)]
    draw.title(figure, draw.score_text(score, threshold), notes, fontsize=11)
    return figure
