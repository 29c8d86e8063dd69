"""How detectors look at photos: in fewer pixels or more, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from captum_face.maps.templates import FIVE_POINTS
from captum_face.photos.photo import Photo

__all__ = ["LOOKED_AT", "five_points", "resized", "shrinking", "unscaled"]

#: The most pixels in which detectors look at a photo, unless told otherwise.
LOOKED_AT = 4_000_000


def shrinking(photo: Photo, max_pixels: int) -> float:
    """The scale, at most 1, at which a photo has no more pixels than these."""
    height, width = photo.size
    return min(1.0, (max_pixels / (height * width)) ** 0.5)


def resized(pixels: NDArray[Any], scale: float) -> NDArray[Any]:
    """Pixels ``(H, W, 3)`` at another scale, antialiased where it shrinks."""
    if scale == 1:
        return np.ascontiguousarray(pixels)
    height, width = (max(round(side * scale), 1) for side in pixels.shape[:2])
    how = Image.Resampling.BILINEAR if scale > 1 else Image.Resampling.BOX
    return np.asarray(Image.fromarray(pixels).resize((width, height), how))


def unscaled(points: Any, scale: float) -> NDArray[np.float64]:
    """Points of a picture that :func:`resized` gave, in pixels of what it was given."""
    points = np.asarray(points, float)
    return points if scale == 1 else (points + 0.5) / scale - 0.5


def five_points(points: Any) -> dict[str, tuple[float, float]]:
    """Points ``(5, 2)`` in the order of :data:`FIVE_POINTS`, by name."""
    return {name: (float(x), float(y)) for name, (x, y) in zip(FIVE_POINTS, points, strict=True)}
