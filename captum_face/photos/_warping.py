"""Similarity transforms between photos and crops, and images drawn through them.

scikit-image does both: its least-squares fit is the one that InsightFace's own alignment calls, so crops are
those that models were trained on, and its ``warp`` takes what scikit-image's fit gives. OpenCV's fit draws
random subsets of the points, and kornia's needs a batch of tensors for five points.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["PHOTOS_EXTRA", "apply", "fit", "inverted", "require_extra", "warp"]

PHOTOS_EXTRA = 'pip install "captum-face[photos]"'


def require_extra(module: str, purpose: str, install: str = PHOTOS_EXTRA) -> ModuleType:
    """Imports what an optional dependency brings.

    Raises:
        ImportError: it is not there; the message says what installs it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ImportError(
            f"{purpose} needs {package}, which is not installed: {install} ({error})"
        ) from error


def fit(source: NDArray[Any], target: NDArray[Any]) -> NDArray[np.float64]:
    """The similarity transform ``(2, 3)`` that takes points ``(P, 2)`` nearest to others (least squares).

    Raises:
        ValueError: the points lie on one spot.
    """
    transform = require_extra("skimage.transform", "alignment of faces")
    found = transform.estimate_transform("similarity", np.asarray(source, float), np.asarray(target, float))
    matrix = np.asarray(found.params if found else np.full((3, 3), np.nan), float)[:2]
    if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix[:, :2])) < 1e-12:
        raise ValueError("expected landmarks at different places, got all of them on one spot")
    return matrix


def inverted(matrix: NDArray[Any]) -> NDArray[np.float64]:
    """The inverse ``(2, 3)`` of an affine transform ``(2, 3)``."""
    linear = np.linalg.inv(matrix[:, :2])
    return np.column_stack([linear, -linear @ matrix[:, 2]])


def apply(matrix: NDArray[Any], points: Any) -> NDArray[np.float64]:
    """Points ``(..., 2)`` through an affine transform ``(2, 3)``."""
    return np.asarray(points, float) @ matrix[:, :2].T + matrix[:, 2]


def warp(
    image: NDArray[Any] | Tensor, matrix: NDArray[Any], size: Sequence[int], *, outside: float = 0
) -> NDArray[np.float32]:
    """An image through an affine transform, antialiased where it shrinks.

    Only the part of the image that is seen is read. Where the image shrinks it is smoothed first, by the
    Gaussian of scikit-image's ``resize``, with half of what a pixel covers beyond itself as its deviation.

    Args:
        image: ``(H, W)`` or ``(H, W, C)``; bytes come as 0 to 255.
        matrix: ``(2, 3)`` from ``(x, y)`` of the image to those of the result; the centre of the first pixel
            is ``(0, 0)``.
        size: Height and width of the result.
        outside: Value beyond the border of the image.

    Returns:
        float32 of the size ``size``, by bilinear interpolation.
    """
    transform = require_extra("skimage.transform", "alignment of faces")
    filters = require_extra("skimage.filters", "alignment of faces")
    pixels = np.asarray(image)
    result = np.full((*size, *pixels.shape[2:]), outside, np.float32)
    # Only the part of the result is drawn in which the image lies.
    ends = [(x, y) for x in (-1, pixels.shape[1]) for y in (-1, pixels.shape[0])]
    first, last = _box_of(apply(matrix, ends), 1, result.shape)
    if not (first < last).all():
        return result
    ends = [(x, y) for x in (first[0] - 1, last[0]) for y in (first[1] - 1, last[1])]
    # How many pixels of the image a pixel of the result covers.
    covers = 1 / np.sqrt(abs(np.linalg.det(matrix[:, :2])))
    sigma = max((covers - 1) / 2, 0)
    (left, top), (right, bottom) = _box_of(apply(inverted(matrix), ends), int(4 * sigma) + 2, pixels.shape)
    if left >= right or top >= bottom:
        return result
    part = pixels[top:bottom, left:right].astype(np.float32)
    if sigma > 0:
        part = filters.gaussian(
            part, sigma, mode="nearest", preserve_range=True, channel_axis=-1 if part.ndim == 3 else None
        )
    # skimage wants where each drawn pixel of the result is in the part.
    backward = inverted(matrix)
    backward[:, 2] += backward[:, :2] @ first - (left, top)
    result[first[1] : last[1], first[0] : last[0]] = transform.warp(
        part,
        transform.AffineTransform(matrix=np.vstack([backward, (0, 0, 1)])),
        output_shape=(last[1] - first[1], last[0] - first[0]),
        order=1,
        mode="constant",
        cval=outside,
        preserve_range=True,
    )
    return result


def _box_of(
    points: NDArray[np.float64], rim: int, shape: Sequence[int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and last (exclusive) pixel ``(x, y)`` of an image around points ``(P, 2)``, with a rim."""
    ends = np.array([np.floor(points.min(0)) - rim, np.ceil(points.max(0)) + rim + 1])
    first, last = np.clip(ends, 0, (shape[1], shape[0])).astype(int)
    return first, last
