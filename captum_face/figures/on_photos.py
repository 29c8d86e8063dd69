"""The figure of one explained pair, drawn on the photos that its faces were cut from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.patches import Polygon, Rectangle
from torch import Tensor

from captum_face.attr.spec import display_name
from captum_face.figures import _drawing as draw
from captum_face.figures._look import Look, Place, require_figsize, root
from captum_face.figures._style import styled
from captum_face.photos._warping import apply, inverted
from captum_face.photos.crops import PhotoCrop, PhotoView

__all__ = ["show_on_photos"]

_SIDE = 2.3  # width of a panel in inches
_TALLEST = 1.3  # height of a panel as a multiple of its width; taller photos are drawn narrower
_LINE = "#1a9641"  # of the face that is explained
_OTHER = "#777777"  # of faces that are not


@styled
def show_on_photos(
    inputs: tuple[Tensor, Tensor],
    attributions: tuple[Tensor, Tensor],
    crops: tuple[PhotoCrop | None, PhotoCrop | None],
    *,
    score: float | None = None,
    threshold: float | None = None,
    method: str | None = None,
    names: tuple[str, str] = ("image A", "image B"),
    remarks: Sequence[str] = (),
    sigma: float = 0.0,
    percentile: float = 99.5,
    cmap: str | Colormap | None = None,
    alpha: float | None = None,
    contour: bool | float = False,
    axes: Place | None = None,
    figsize: tuple[float, float] | None = None,
    title: str | None = None,
) -> Figure:
    """Draws what speaks for a match and what against on the photos that the faces were cut from.

    A row for each photo: the whole photo with all its evidence and a frame around the face that is explained
    (dashed and numbered: others that were found), and the part around the face with what speaks for a match
    and what speaks against, over grey. All maps share one scale. An image that was no photo, whose crop is
    None, is drawn as it is.

    Args:
        inputs: ``(image_a, image_b)``, each ``(1, C, H, W)`` in [0, 1], as explained.
        attributions: What a method's ``attribute(inputs)`` gave.
        crops: Where they came from: see :func:`~captum_face.photos.align_face`.

    All other arguments are those of :func:`~captum_face.show_explanation`.

    Raises:
        ValueError: no crop at all, or as :func:`~captum_face.show_explanation`.
    """
    if not any(crops):
        raise ValueError(
            "expected a pair with an image that was cut from a photo, got two images that were taken as they "
            "are; draw them with plot() or show_explanation"
        )
    look = Look.of(cmap, alpha, contour)
    pictures, maps = draw.pictures_and_maps(inputs, attributions, sigma)
    limit = draw.saturation(maps, percentile)
    heights = [
        _SIDE * min(max(_ratios(crop, picture)), _TALLEST)
        for crop, picture in zip(crops, pictures, strict=True)
    ]
    size = require_figsize(figsize, (3 * _SIDE + 1.2, sum(heights) + 0.9), axes)
    figure, panels = draw.new_grid(2, 3, size, place=axes, heights=heights)
    for row, (crop, picture, signed, name) in enumerate(zip(crops, pictures, maps, names, strict=True)):
        draw.draw_label(panels[row, 0], name, 9)
        heading = "" if row == 0 else None
        if crop is None:
            draw.draw_row(panels[row], picture, signed / limit, heading, look)
            continue
        photo = look.over(crop.whole.pixels / 255, crop.to_view(crop.whole, signed / limit))
        face = crop.closeup.pixels / 255
        draw.draw_row(panels[row], photo, crop.to_view(crop.closeup, signed / limit), heading, look, face)
        for axis, view in zip(panels[row], (crop.whole, crop.closeup, crop.closeup), strict=True):
            _frame(axis, crop, view)
        _other_faces(panels[row, 0], crop)
    draw.colour_bar(figure, panels, limit, look=look, shrink=0.9, pad=0.02, aspect=32)
    notes = ["" if method is None else display_name(method), *remarks, draw.smoothing_note(sigma)]
    draw.title(figure, draw.score_text(score, threshold), notes, fontsize=11, own=title, place=axes)
    return root(figure)


def _ratios(crop: PhotoCrop | None, picture: np.ndarray) -> list[float]:
    """Height by width of the pictures of a row."""
    shown = [picture] if crop is None else [crop.whole.pixels, crop.closeup.pixels]
    return [pixels.shape[0] / pixels.shape[1] for pixels in shown]


def _frame(axis: Axes, crop: PhotoCrop, view: PhotoView) -> None:
    """The border of the crop."""
    height, width = crop.template.size
    corners = [(-0.5, -0.5), (width - 0.5, -0.5), (width - 0.5, height - 0.5), (-0.5, height - 0.5)]
    outline = apply(inverted(crop.view_transform(view)), corners)
    axis.add_patch(Polygon(outline, fill=False, edgecolor=_LINE, linewidth=1.0))
    axis.set(xlim=(-0.5, view.pixels.shape[1] - 0.5), ylim=(view.pixels.shape[0] - 0.5, -0.5))


def _other_faces(axis: Axes, crop: PhotoCrop) -> None:
    """The boxes of all faces of a photo with their numbers, if it shows several."""
    if len(crop.boxes) < 2:
        return
    for number, box in enumerate(crop.boxes):
        (left, top), (right, bottom) = apply(inverted(crop.whole.to_photo), box.reshape(2, 2))
        chosen = number == crop.chosen
        colour = _LINE if chosen else _OTHER
        if not chosen:
            axis.add_patch(
                Rectangle(
                    (left, top), right - left, bottom - top, fill=False, edgecolor=colour, linestyle="--"
                )
            )
        axis.text(
            left, top, str(number), fontsize=8, color="white", va="bottom", ha="left",
            bbox={"facecolor": colour, "edgecolor": "none", "pad": 1.0},
        )  # fmt: skip
