"""Figures."""

from __future__ import annotations

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize, to_rgb
from matplotlib.figure import Figure
from torch import Tensor

from captum_face._validation import require_pair
from captum_face.postprocessing import pixel_map, smooth

__all__ = ["decision_text", "show_explanation"]

# Red against, blue for: told apart with any colour vision.
_AGAINST, _FOR = (np.array(to_rgb(colour)) for colour in ("#b2182b", "#2166ac"))
_COLOURS = LinearSegmentedColormap.from_list("against_for", [_AGAINST, (1, 1, 1), _FOR])
_GREY = np.array([0.299, 0.587, 0.114])


def decision_text(score: float, threshold: float) -> str:
    """The decision in words.

    Example::

        >>> decision_text(0.431, 0.15)
        'score 0.431 ≥ threshold 0.150: accepted as the same person'
    """
    if score >= threshold:
        return f"score {score:.3f} ≥ threshold {threshold:.3f}: accepted as the same person"
    return f"score {score:.3f} < threshold {threshold:.3f}: rejected as different people"


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
    opacity: float = 0.85,
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
        opacity: Of the strongest colour, in (0, 1].

    Returns:
        A matplotlib :class:`~matplotlib.figure.Figure` outside of pyplot's state, ready for
        ``savefig``; a notebook shows it.

    Raises:
        ValueError: attributions that don't fit the inputs, NaN, an index beyond the batch.
    """
    images = require_pair(inputs)
    if not isinstance(attributions, (tuple, list)) or len(attributions) != 2:
        raise TypeError("expected attributions as a pair (attr_a, attr_b), as attribute() returns them")
    pairs = max(len(image) for image in images)
    if not -pairs <= index < pairs:
        raise ValueError(f"expected index within the batch of {pairs} pairs, got {index}")
    faces, maps = [], []
    for image, attr in zip(images, attributions, strict=True):
        if attr.shape[-2:] != image.shape[-2:] or len(attr) not in (1, pairs):
            raise ValueError(f"expected attributions for images {tuple(image.shape)}, got {tuple(attr.shape)}")
        faces.append(_as_picture(image[index if len(image) > 1 else 0]))
        signed = pixel_map(smooth(attr[index if len(attr) > 1 else 0, None].detach().float(), sigma))
        maps.append(signed[0].cpu().numpy())
    limit = float(np.percentile(np.abs(np.stack(maps)), percentile)) or float(np.abs(np.stack(maps)).max()) or 1.0

    height, width = faces[0].shape[:2]
    figure = Figure(figsize=(7.2, 4.1 * height / width + 0.6), layout="constrained", dpi=150)
    axes = figure.subplots(2, 3, gridspec_kw={"wspace": 0.02, "hspace": 0.02})
    headings = ("", "speaks for a match", "speaks against")
    for row, (face, signed, name) in enumerate(zip(faces, maps, names, strict=True)):
        for column, heading in enumerate(headings):
            axis = axes[row, column]
            axis.set(xticks=[], yticks=[])
            for spine in axis.spines.values():
                spine.set_visible(False)
            if row == 0:
                axis.set_title(heading, fontsize=10)
            if column == 0:
                axis.set_ylabel(name, fontsize=10)
                axis.imshow(face, interpolation="bilinear")
            else:
                shown = np.clip(signed, 0, None) if column == 1 else np.clip(signed, None, 0)
                axis.imshow(_overlay(face, shown / limit, opacity), interpolation="bilinear")
    bar = figure.colorbar(
        ScalarMappable(Normalize(-limit, limit), _COLOURS), ax=axes, orientation="vertical", shrink=0.9, pad=0.02, aspect=32
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
        figure.suptitle(title, fontsize=11)
    return figure


def _as_picture(image: Tensor) -> np.ndarray:
    """``(C, H, W)`` to ``(H, W, 3)`` in [0, 1]."""
    picture = image.detach().float().clamp(0, 1).cpu().permute(1, 2, 0).numpy()
    return picture[..., :3] if picture.shape[2] >= 3 else np.repeat(picture[..., :1], 3, axis=2)


def _overlay(face: np.ndarray, signed: np.ndarray, opacity: float) -> np.ndarray:
    """Colours over the grey face, as opaque as the relevance is strong."""
    grey = np.repeat((face @ _GREY)[..., None], 3, axis=2)
    # Lightened, so that dark hair does not swallow the colours.
    grey = 0.25 + 0.75 * grey
    strength = np.clip(np.abs(signed), 0, 1)[..., None]
    colour = np.where(signed[..., None] > 0, _FOR, _AGAINST)
    alpha = opacity * strength
    return np.clip(grey * (1 - alpha) + colour * alpha, 0, 1)
