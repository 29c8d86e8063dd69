"""Figures of which region of one face speaks with which region of the other."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch
from torch import Tensor

from captum_face._validation import require_pair, require_positive_int
from captum_face.figures import _drawing as draw
from captum_face.figures._look import AnyFigure, root
from captum_face.figures._style import styled

__all__ = ["show_interactions"]

_THINNEST, _WIDEST = 0.4, 2.4  # lines of the weakest and the strongest connection drawn, in points


@styled
def show_interactions(
    inputs: tuple[Tensor, Tensor],
    interactions: Tensor,
    *,
    grid: tuple[int, int] = (14, 14),
    strongest: int = 40,
    score: float | None = None,
    threshold: float | None = None,
    names: tuple[str, str] = ("image A", "image B"),
    index: int = 0,
) -> Figure:
    """Draws both faces side by side and the strongest connections between their regions as lines.

    Blue connections speak for a match, red ones against. Width and opacity of a line grow with the size of
    its joint relevance, from the weakest that is drawn to the strongest. Each end lies in the middle of
    its region.

    Args:
        inputs: ``(image_a, image_b)``, each ``(N, C, H, W)`` in [0, 1]; a batch of 1 stands against N.
        interactions: ``(N, G, G)`` from :meth:`BiLRP.interactions <captum_face.BiLRP.interactions>`.
        grid: The same as there.
        strongest: How many connections are drawn: those of the largest absolute value.
        score: The pair's score; with ``threshold`` the title states the decision in words.
        threshold: The verification threshold; without one nothing is decided, and the title says so.
        names: What to write above the two faces.
        index: Which pair of the batch.

    Returns:
        A matplotlib :class:`~matplotlib.figure.Figure` outside of pyplot's state, ready for ``savefig``.
        Its caption says which share of all positive and negative relevance the lines stand for.

    Raises:
        ValueError: interactions that do not fit the grid or the inputs, NaN, an index beyond the batch.
    """
    images = require_pair(inputs)
    joint = _require_interactions(interactions, grid, max(map(len, images)), index)
    require_positive_int(strongest, "strongest")
    faces = draw.pictures_of_pair(images, index)
    figure, axes = draw.new_grid(1, 2, (6.6, 3.4 if score is not None else 3.1), wspace=0.12)
    for axis, face, name in zip(axes[0], faces, names, strict=True):
        draw.draw_picture(axis, draw.as_grey(face, 0.35), name, fontsize=10)

    order = np.argsort(np.abs(joint), axis=None)[::-1][: min(strongest, joint.size)]
    limit = float(np.abs(joint).max()) or 1.0
    # From the weakest that is drawn to the strongest, which are often of one order of magnitude.
    weakest = float(np.abs(joint.flat[order[-1]]))
    size = faces[0].shape[:2]
    for place in order[::-1]:  # the strongest on top
        ends = [_centre(int(region), grid, size) for region in np.unravel_index(place, joint.shape)]
        value = float(joint.flat[place])
        strength = (abs(value) - weakest) / (limit - weakest) if limit > weakest else 1.0
        if value:
            _connect(figure, axes[0], ends, strength, draw.FOR if value > 0 else draw.AGAINST)

    draw.colour_bar(figure, axes, limit, "against  ←  joint relevance  →  for", shrink=0.85, pad=0.03)
    draw.title(figure, draw.score_text(score, threshold), [])
    figure.supxlabel(_caption(joint, order), fontsize=8)
    return root(figure)


def _connect(
    figure: AnyFigure,
    axes: np.ndarray,
    ends: list[tuple[float, float]],
    strength: float,
    colour: np.ndarray,
) -> None:
    line = ConnectionPatch(
        ends[0],
        ends[1],
        "data",
        "data",
        axesA=axes[0],
        axesB=axes[1],
        color=tuple(colour),
        linewidth=_THINNEST + (_WIDEST - _THINNEST) * strength,
        alpha=0.2 + 0.65 * strength,
        capstyle="round",
    )
    line.set_in_layout(False)
    figure.add_artist(line)
    for axis, (x, y) in zip(axes, ends, strict=True):
        axis.plot(x, y, "o", color=tuple(colour), markersize=1.5 + 2.5 * strength, markeredgewidth=0)


def _centre(region: int, grid: tuple[int, int], size: tuple[int, ...]) -> tuple[float, float]:
    """The middle of a region as (x, y); pixels have their centres at whole numbers."""
    row, column = divmod(region, grid[1])
    return (column + 0.5) * size[1] / grid[1] - 0.5, (row + 0.5) * size[0] / grid[0] - 0.5


def _caption(joint: np.ndarray, order: np.ndarray) -> str:
    drawn = joint.flat[order]
    parts = []
    for sign, what in ((1, "for"), (-1, "against")):
        whole = float(np.clip(sign * joint, 0, None).sum())
        if whole > 0:
            share = float(np.clip(sign * drawn, 0, None).sum()) / whole
            parts.append(f"{f'{share:.0%}' if share else 'none'} of what speaks {what}")
    shown = ", ".join(parts) or "none of the relevance"
    return f"The strongest {len(order)} of {joint.size} connections: {shown}"


def _require_interactions(interactions: object, grid: tuple[int, int], pairs: int, index: int) -> np.ndarray:
    regions = grid[0] * grid[1]
    if not isinstance(interactions, Tensor):
        raise TypeError(f"expected interactions as a tensor (N, G, G), got {type(interactions).__name__}")
    if interactions.shape != (pairs, regions, regions):
        raise ValueError(
            f"expected interactions ({pairs}, {regions}, {regions}) for {pairs} pair(s) and a grid of "
            f"{grid}, got {tuple(interactions.shape)}; pass the grid= that they were computed with"
        )
    if not -pairs <= index < pairs:
        raise ValueError(f"expected index within the batch of {pairs} pairs, got {index}")
    if not torch.isfinite(interactions).all():
        raise ValueError("expected finite interactions, got NaN or infinite values")
    return interactions[index].detach().float().cpu().numpy()
