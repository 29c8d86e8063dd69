"""Figures."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize, to_rgb
from matplotlib.figure import Figure
from torch import Tensor

from captum_face._validation import require_pair
from captum_face.maps.signed import pixel_map, smooth

if TYPE_CHECKING:
    from captum_face.results.explanation import Explanation

__all__ = ["decision_text", "show_comparison", "show_explanation"]

# Red against, blue for: told apart with any colour vision.
_AGAINST, _FOR = (np.array(to_rgb(colour)) for colour in ("#b2182b", "#2166ac"))
_COLOURS = LinearSegmentedColormap.from_list("against_for", [tuple(_AGAINST), "white", tuple(_FOR)])
_OPACITY = 0.85  # of the strongest colour, so that the face shows through
_EMPTY = 0.02  # a panel whose strongest value is below this share of the scale is as good as empty
_HEADINGS_EVERY = 6  # rows of a comparison: a long sheet is read a screen at a time
_GREY = np.array([0.299, 0.587, 0.114])


def decision_text(score: float, threshold: float) -> str:
    """The decision in words.

    Example::

        >>> decision_text(0.431, 0.15)
        'score 0.431 ≥ threshold 0.150: accepted as the same person'
    """
    digits = next(
        (d for d in range(3, 9) if score == threshold or f"{score:.{d}f}" != f"{threshold:.{d}f}"), 9
    )
    if score >= threshold:
        return f"score {score:.{digits}f} ≥ threshold {threshold:.{digits}f}: accepted as the same person"
    return f"score {score:.{digits}f} < threshold {threshold:.{digits}f}: rejected as different people"


def show_explanation(
    inputs: tuple[Tensor, Tensor],
    attributions: tuple[Tensor, Tensor],
    *,
    score: float | None = None,
    threshold: float | None = None,
    method: str | None = None,
    names: tuple[str, str] = ("image A", "image B"),
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
        threshold: The verification threshold.
        method: Name of the method for the title.
        names: What to write beside the two faces.
        index: Which pair of the batch.
        sigma: Smooth the maps by a Gaussian of so many pixels; the title says so. 0 shows them as they are.
        percentile: Absolute value at which the colour saturates, as a percentile over both maps.

    Returns:
        A matplotlib :class:`~matplotlib.figure.Figure` outside of pyplot's state, ready for
        ``savefig``; a notebook shows it.

    Raises:
        ValueError: attributions that don't fit the inputs, NaN, an index beyond the batch.
    """
    faces, maps = _faces_and_maps(inputs, attributions, index, sigma)
    limit = _limit(maps, percentile)
    figure = _figure(2, 3, faces[0])
    axes = figure.subplots(2, 3)
    for row, (face, signed, name) in enumerate(zip(faces, maps, names, strict=True)):
        axes[row, 0].set_ylabel(name, fontsize=10, parse_math=False)
        _draw_row(axes[row], face, signed / limit, headings=row == 0)
    bar = figure.colorbar(
        ScalarMappable(Normalize(-limit, limit), _COLOURS), ax=axes, shrink=0.9, pad=0.02, aspect=32
    )
    bar.set_ticks([-limit, 0, limit], labels=[f"−{limit:.2g}", "0", f"{limit:.2g}"])
    bar.set_label("against  ←  relevance  →  for the same person", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    parts = [text for text in (method, f"smoothed, σ = {sigma:g} px" if sigma else None) if text]
    title = " · ".join(parts)
    if score is not None and threshold is not None:
        title = "\n".join(filter(None, [decision_text(score, threshold).capitalize(), title]))
    elif score is not None:
        title = "\n".join(filter(None, [f"Score {score:.3f}", title]))
    if title:
        figure.suptitle(title, fontsize=11, parse_math=False)
    return figure


def show_comparison(
    explanations: Sequence[Explanation],
    *,
    masks: tuple[Tensor, Tensor] | None = None,
    sigma: float = 0.0,
    percentile: float = 99.5,
) -> Figure:
    """Draws several methods' explanations of one pair, a row for each.

    Args:
        explanations: Of the same two images. Methods measure relevance in different units, so each row
            has a scale of its own, shared by its four maps.
        masks: ``(1, H, W)`` or ``(H, W)`` bool for both faces: what is known to differ, drawn as outlines.
        sigma: Smooth the maps by a Gaussian of so many pixels; the title says so.
        percentile: Absolute value at which a row's colour saturates, as a percentile over its maps.

    Raises:
        ValueError: no explanations, of different images, or of different models (their scores differ).
    """
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
        scores = ", ".join(f"{e.method} {e.score:.3f}" for e in explanations)
        raise ValueError(f"expected explanations of one model's score, got different ones: {scores}")
    outlines = (
        [mask.reshape(mask.shape[-2:]).cpu().numpy() for mask in masks] if masks is not None else [None, None]
    )
    figure = _figure(len(explanations), 6, _as_picture(first.images[0][0]))
    axes = figure.subplots(len(explanations), 6, squeeze=False)
    for row, explanation in enumerate(explanations):
        faces, maps = _faces_and_maps(explanation.images, explanation.attributions, 0, sigma)
        limit = _limit(maps, percentile)
        label = explanation.method.replace("_", " ")
        axes[row, 0].set_ylabel(textwrap.fill(label, 14), fontsize=10, parse_math=False)
        for side in range(2):
            panels = axes[row, 3 * side : 3 * side + 3]
            headings = row % _HEADINGS_EVERY == 0
            _draw_row(panels, faces[side], maps[side] / limit, headings=headings, outline=outlines[side])
            if headings:
                panels[0].set_title(first.names[side], fontsize=9, parse_math=False)
    title = decision_text(first.score, first.threshold).capitalize()
    notes = ["each row has its own scale"]
    if sigma:
        notes.append(f"smoothed, σ = {sigma:g} px")
    if masks is not None:
        notes.append("outlined: what was changed")
    figure.suptitle(f"{title}\n{' · '.join(notes)}", fontsize=10, parse_math=False)
    return figure


def _faces_and_maps(
    inputs: tuple[Tensor, Tensor], attributions: tuple[Tensor, Tensor], index: int, sigma: float
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Pictures ``(H, W, 3)`` and signed maps ``(H, W)`` of both sides of one pair."""
    images = require_pair(inputs)
    if not isinstance(attributions, (tuple, list)) or len(attributions) != 2:
        raise TypeError("expected attributions as a pair (attr_a, attr_b), as attribute() returns them")
    pairs = max(len(image) for image in images)
    if not -pairs <= index < pairs:
        raise ValueError(f"expected index within the batch of {pairs} pairs, got {index}")
    faces, maps = [], []
    for image, attr in zip(images, attributions, strict=True):
        if attr.shape[-2:] != image.shape[-2:] or len(attr) not in (1, pairs):
            raise ValueError(
                f"expected attributions for images {tuple(image.shape)}, got {tuple(attr.shape)}"
            )
        faces.append(_as_picture(image[index if len(image) > 1 else 0]))
        signed = pixel_map(smooth(attr[index if len(attr) > 1 else 0, None].detach().float(), sigma))
        maps.append(signed[0].cpu().numpy())
    return faces, maps


def _limit(maps: list[np.ndarray], percentile: float) -> float:
    """Where the colour saturates; 1 for maps that are zero everywhere."""
    size = np.abs(np.stack(maps))
    return float(np.percentile(size, percentile)) or float(size.max()) or 1.0


def _figure(rows: int, columns: int, face: np.ndarray) -> Figure:
    """A figure for a grid of faces, with room for a title and, beside few columns, a colour bar."""
    side = 2.0 if columns <= 3 else 1.6
    height = side * face.shape[0] / face.shape[1]
    return Figure(figsize=(columns * side + 1.2, rows * height + 0.8), layout="constrained", dpi=150)


def _draw_row(
    axes: np.ndarray,
    face: np.ndarray,
    signed: np.ndarray,
    *,
    headings: bool,
    outline: np.ndarray | None = None,
) -> None:
    """The photo, what speaks for a match and what speaks against it; ``signed`` in [-1, 1]."""
    shown = (None, np.clip(signed, 0, None), np.clip(signed, None, 0))
    headings_of = ("", "speaks for a match", "speaks against")
    for axis, part, heading in zip(axes, shown, headings_of, strict=True):
        picture = face if part is None else _overlay(face, part)
        axis.set(xticks=[], yticks=[])
        for spine in axis.spines.values():
            spine.set_visible(False)
        axis.imshow(picture, interpolation="bilinear")
        if part is not None and np.abs(part).max() < _EMPTY:
            # Said in words: a grey face alone looks like a figure that failed.
            axis.text(0.5, 0.04, "next to nothing", transform=axis.transAxes, ha="center", fontsize=7)
        if outline is not None and outline.any() and not outline.all():
            axis.contour(outline.astype(float), levels=[0.5], colors="black", linewidths=0.7)
        if headings:
            axis.set_title(heading, fontsize=9)


def _as_picture(image: Tensor) -> np.ndarray:
    """``(C, H, W)`` to ``(H, W, 3)`` in [0, 1]."""
    picture = image.detach().float().clamp(0, 1).cpu().permute(1, 2, 0).numpy()
    return picture[..., :3] if picture.shape[2] >= 3 else np.repeat(picture[..., :1], 3, axis=2)


def _overlay(face: np.ndarray, signed: np.ndarray) -> np.ndarray:
    """Colours over the grey face, as opaque as the relevance is strong."""
    grey = np.repeat((face @ _GREY)[..., None], 3, axis=2)
    # Lightened, so that dark hair does not swallow the colours.
    grey = 0.25 + 0.75 * grey
    strength = np.clip(np.abs(signed), 0, 1)[..., None]
    colour = np.where(signed[..., None] > 0, _FOR, _AGAINST)
    alpha = _OPACITY * strength
    return np.clip(grey * (1 - alpha) + colour * alpha, 0, 1)
