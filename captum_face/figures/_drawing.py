"""What all figures are drawn with: pictures, overlays, colours, scales, panels and titles."""

from __future__ import annotations

import textwrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.text import Text
from torch import Tensor

from captum_face._files import printable
from captum_face._validation import require_pair
from captum_face.figures._look import AGAINST, FOR, AnyFigure, Look, Place, require_place, root
from captum_face.figures._style import PairFigure
from captum_face.maps.signed import pixel_map, smooth
from captum_face.pair.scores import decision_text

__all__ = [
    "AGAINST",
    "ALL_ZERO",
    "FOR",
    "as_grey",
    "as_picture",
    "bare",
    "colour_bar",
    "draw_evidence",
    "draw_label",
    "draw_map",
    "draw_outline",
    "draw_picture",
    "draw_row",
    "new_figure",
    "new_grid",
    "overlay",
    "pictures_and_maps",
    "pictures_of_pair",
    "saturation",
    "score_text",
    "signed_map",
    "smoothing_note",
    "title",
    "title_lines",
    "wrapped_title",
    "write",
]

# Names and verdicts are texts, no formulas.
_PLAIN: dict[str, Any] = {"parse_math": False, "usetex": False}
ALL_ZERO = "empty map: all 0"
DEFAULT = Look()
_SHORT = 60  # letters of a note that shares its line with others
_FEW_LINES = 3  # of a title in letters of full size
_LETTERS = 13  # of 9 points that fill an inch
_LABEL = {"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 1.0}  # ground of words in a panel
_EMPTY = 0.02  # a panel whose strongest value is below this share of the scale is as good as empty


def as_picture(image: Tensor) -> np.ndarray:
    """``(C, H, W)`` to ``(H, W, 3)`` in [0, 1]."""
    picture = image.detach().float().clamp(0, 1).cpu().permute(1, 2, 0).numpy()
    return picture[..., :3] if picture.shape[2] >= 3 else np.repeat(picture[..., :1], 3, axis=2)


def as_grey(picture: np.ndarray, darkest: float) -> np.ndarray:
    """A picture in grey, lightened so that dark hair does not swallow the colours over it."""
    grey = np.repeat((picture @ np.array([0.299, 0.587, 0.114]))[..., None], 3, axis=2)
    return darkest + (1 - darkest) * grey


def overlay(picture: np.ndarray, signed: np.ndarray, look: Look = DEFAULT) -> np.ndarray:
    """Colours over the grey picture, as opaque as the relevance is strong; ``signed`` in [-1, 1]."""
    return look.over(as_grey(picture, 0.25), signed)


def signed_map(attribution: Tensor, sigma: float) -> np.ndarray:
    """One signed value per pixel ``(H, W)`` of an attribution ``(1, C, H, W)``, smoothed."""
    return pixel_map(smooth(attribution.detach().float(), sigma))[0].cpu().numpy()


def pictures_of_pair(images: tuple[Tensor, Tensor], index: int) -> list[np.ndarray]:
    """Both pictures of one pair of a batch, in which a single image stands against N."""
    pairs = max(map(len, images))
    if not -pairs <= index < pairs:
        raise ValueError(f"expected index within the batch of {pairs} pairs, got {index}")
    return [as_picture(image[index if len(image) > 1 else 0]) for image in images]


def pictures_and_maps(
    inputs: tuple[Tensor, Tensor], attributions: tuple[Tensor, Tensor], sigma: float, index: int = 0
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Pictures ``(H, W, 3)`` and signed maps ``(H, W)`` of both sides of one pair."""
    images = require_pair(inputs)
    if not isinstance(attributions, (tuple, list)) or len(attributions) != 2:
        raise TypeError("expected attributions as a pair (attr_a, attr_b), as attribute() returns them")
    pictures, pairs, maps = pictures_of_pair(images, index), max(map(len, images)), []
    for image, attr in zip(images, attributions, strict=True):
        if attr.shape[-2:] != image.shape[-2:] or len(attr) not in (1, pairs):
            raise ValueError(
                f"expected attributions for images {tuple(image.shape)}, got {tuple(attr.shape)}"
            )
        maps.append(signed_map(attr[index if len(attr) > 1 else 0, None], sigma))
    return pictures, maps


def saturation(maps: list[np.ndarray], percentile: float) -> float:
    """Where the colour saturates; 1 for maps that are zero everywhere."""
    size = np.abs(np.stack(maps))
    return float(np.percentile(size, percentile)) or float(size.max()) or 1.0


def new_figure(size: tuple[float, float]) -> PairFigure:
    """A figure outside of pyplot's state; ``size``: width and height in inches."""
    return PairFigure(figsize=size, layout="constrained", dpi=150)


def new_grid(
    rows: int,
    columns: int,
    size: tuple[float, float],
    wspace: float | None = None,
    place: Place | None = None,
    heights: list[float] | None = None,
) -> tuple[AnyFigure, np.ndarray]:
    """A figure and its panels ``(rows, columns)`` without ticks and frames.

    Args:
        rows: Panels below each other.
        columns: Panels side by side.
        size: Width and height of the figure in inches.
        wspace: Space between panels as a share of their width; None for matplotlib's.
        place: Where to draw; None for a figure of its own.
        heights: Of the rows, in any unit; None for equal ones.
    """
    figure, axes = (new_figure(size), None) if place is None else require_place(place, rows, columns)
    if axes is None:
        axes = figure.subplots(
            rows, columns, squeeze=False, gridspec_kw={"wspace": wspace, "height_ratios": heights}
        )
    for axis in axes.flat:
        bare(axis)
    return figure, axes


def bare(axis: Axes) -> Axes:
    """The axes without ticks, grid and frame."""
    axis.grid(False)
    axis.set(xticks=[], yticks=[])
    axis.set_frame_on(False)
    return axis


def draw_picture(
    axis: Axes, picture: np.ndarray, heading: str = "", *, fontsize: float = 9.0, bold: bool = False
) -> None:
    """A picture with a heading above it."""
    axis.imshow(picture, interpolation="bilinear")
    weight = "bold" if bold else "normal"
    axis.set_title(printable(heading), fontsize=fontsize, fontweight=weight, **_PLAIN)


def draw_map(
    axis: Axes, picture: np.ndarray, signed: np.ndarray, look: Look = DEFAULT, empty: str = ""
) -> None:
    """A map over its picture; ``signed`` in [-1, 1], ``empty``: what is said of a map of zeros."""
    axis.imshow(overlay(picture, signed, look), interpolation="bilinear")
    look.lines(axis, signed)
    strongest = np.abs(signed).max()
    if strongest < _EMPTY:
        # Said in words: a grey face alone looks like a figure that failed.
        axis.text(
            0.5, 0.03, "next to nothing" if strongest else empty, transform=axis.transAxes, fontsize=7,
            ha="center", va="bottom", color="black", bbox=_LABEL, **_PLAIN,
        )  # fmt: skip


def draw_evidence(axes: np.ndarray, picture: np.ndarray, signed: np.ndarray, look: Look = DEFAULT) -> None:
    """What speaks for a match and what speaks against, in two panels; ``signed`` in [-1, 1]."""
    empty = ("nothing speaks for it", "nothing speaks against it") if signed.any() else (ALL_ZERO,) * 2
    for axis, part, said in zip(axes, (signed.clip(min=0), signed.clip(max=0)), empty, strict=True):
        draw_map(axis, picture, part, look, said)


def draw_row(
    axes: np.ndarray,
    picture: np.ndarray,
    signed: np.ndarray,
    heading: str | None = None,
    look: Look = DEFAULT,
    below: np.ndarray | None = None,
) -> None:
    """The photo and what speaks for and against, in three panels.

    Args:
        axes: Three of them.
        picture: For the first.
        signed: Its map in [-1, 1].
        heading: Above the photo, if any.
        look: Colours.
        below: What lies below the maps; None for the picture.
    """
    draw_picture(axes[0], picture)
    draw_evidence(axes[1:], picture if below is None else below, signed, look)
    if heading is not None:
        for axis, text in zip(axes, (heading, "speaks for a match", "speaks against"), strict=True):
            axis.set_title(printable(text), fontsize=9, **_PLAIN)


def draw_label(axis: Axes, text: str, fontsize: float) -> None:
    """A text beside a row of panels, upwards."""
    axis.set_ylabel(printable(text), fontsize=fontsize, **_PLAIN)


def draw_outline(axes: np.ndarray, mask: Tensor) -> None:
    """The border of a mask ``(1, H, W)`` or ``(H, W)`` over panels that are drawn."""
    inside = mask.reshape(mask.shape[-2:]).cpu().numpy()
    if inside.any() and not inside.all():
        for axis in axes.flat:
            axis.contour(inside.astype(float), levels=[0.5], colors="black", linewidths=0.7)


def colour_bar(
    figure: AnyFigure,
    axes: np.ndarray,
    limit: float,
    label: str = "against  ←  relevance  →  for the same person",
    *,
    fontsize: float = 9.0,
    look: Look = DEFAULT,
    **place: Any,
) -> None:
    """The scale from ``-limit`` to ``limit`` beside all panels."""
    bar = figure.colorbar(ScalarMappable(Normalize(-limit, limit), look.scale), ax=axes, **place)
    bar.set_ticks([-limit, 0, limit], labels=[f"−{limit:.2g}", "0", f"{limit:.2g}"])
    bar.set_label(label, fontsize=fontsize)
    bar.ax.tick_params(labelsize=fontsize - 1)


def score_text(score: float | None, threshold: float | None) -> str:
    """What is known of score and decision in words; empty without a score."""
    if score is None:
        return ""
    return decision_text(score, threshold)


def smoothing_note(sigma: float) -> str:
    """What a title says of maps that were smoothed; empty where they were not."""
    return f"smoothed, σ = {sigma:g} px" if sigma else ""


def write(figure: AnyFigure, x: float, y: float, text: str, fontsize: float) -> None:
    """A text above a place in a figure, in shares of its size."""
    figure.text(x, y, printable(text), ha="center", va="bottom", fontsize=fontsize, **_PLAIN)


def title(
    figure: AnyFigure,
    sentence: str,
    notes: list[str],
    *,
    fontsize: float = 10.0,
    own: str | None = None,
    place: Place | None = None,
) -> Text | None:
    """A sentence, and below it the notes that are not empty, in lines that fit the figure's width.

    Args:
        figure: Where it is drawn.
        sentence: The first line.
        notes: Further lines.
        fontsize: In points.
        own: A caller's own title in place of all that; empty for none.
        place: Where a caller wants the figure: above axes of other figures there is no title but the own.
    """
    if own is not None and not isinstance(own, str):
        raise TypeError(f"expected title as a text, got {own!r}")
    lines = title_lines(figure, sentence, notes, fontsize) if own is None else own.splitlines()
    if own is None and len(lines) > _FEW_LINES:  # smaller letters take fewer lines
        fontsize -= 2
        lines = title_lines(figure, sentence, notes, fontsize)
    if lines and (own is not None or place is None or isinstance(place, AnyFigure)):
        return figure.suptitle(printable("\n".join(lines)), fontsize=fontsize, **_PLAIN)
    return None


def title_lines(figure: AnyFigure, sentence: str, notes: list[str], fontsize: float) -> list[str]:
    """The lines of a title: the sentence, short notes in one line, and each that is long in its own."""
    inches = figure.bbox.width / root(figure).dpi
    width = max(20, int(inches * _LETTERS * 9 / fontsize))
    short = [note for note in notes if note and len(note) <= _SHORT]
    lines = [sentence[:1].upper() + sentence[1:], " · ".join(short), *(n for n in notes if len(n) > _SHORT)]
    return [part for line in lines for part in textwrap.wrap(printable(line), width)]


def wrapped_title(figure: AnyFigure, text: str) -> None:
    """A title in as many lines as the figure's width asks for."""
    figure.suptitle("\n".join(title_lines(figure, text, [], 9)), fontsize=9, **_PLAIN)
