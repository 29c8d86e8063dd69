"""Image tensors as recognisers of other packages take them, and what those answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Pixels", "as_embeddings", "as_pixels"]

#: One image as recognisers take it: ``(H, W, 3)`` uint8.
Pixels = NDArray[np.uint8]


def as_pixels(
    images: Tensor, channels: str = "rgb", input_size: tuple[int, int] | None = None
) -> list[Pixels]:
    """Images ``(N, 3, H, W)`` in [0, 1] as uint8 arrays ``(H, W, 3)``, rounded to the nearest of 256 levels.

    Args:
        images: RGB.
        channels: Order of the colours in the arrays, ``"rgb"`` or ``"bgr"`` (OpenCV).
        input_size: The height and width that are expected; None for any.

    Raises:
        ValueError: images of another size or number of channels.
    """
    if (
        images.ndim != 4
        or images.shape[1] != 3
        or tuple(images.shape[2:]) != (input_size or images.shape[2:])
    ):
        height, width = input_size or ("H", "W")
        raise ValueError(
            f"expected images of the shape (N, 3, {height}, {width}), got {tuple(images.shape)}; align and "
            "crop the faces to the size of the model first"
        )
    if channels == "bgr":
        images = images.flip(1)
    values = images.detach().cpu().clamp(0, 1).mul(255).round().to(torch.uint8)
    return list(np.ascontiguousarray(values.permute(0, 2, 3, 1).numpy()))


def as_embeddings(answer: Any, count: int, what: str) -> NDArray[np.float32]:
    """What a recogniser answers for so many images, checked: ``(N, D)`` float32.

    Args:
        answer: An array or a tensor ``(N, D)``, or a list of N embeddings.
        count: N.
        what: Who answered, for messages.

    Raises:
        ValueError: fewer or more embeddings than images, embeddings of several lengths, or not finite.
        TypeError: something else than numbers.
    """
    if answer is None:
        raise TypeError(f"expected embeddings (N, D) from {what}, got None; does its function return them?")
    if isinstance(answer, Tensor):
        answer = answer.detach().cpu().numpy()
    if isinstance(answer, Sequence) and not isinstance(answer, (str, bytes)):
        missing = [place for place, row in enumerate(answer) if row is None]
        if missing:
            raise ValueError(
                f"expected an embedding of each image from {what}, got None for image {missing[0]} of "
                f"{count}; a recogniser that looks for a face first finds none where much of it is hidden: "
                "switch its detection off, as the images are aligned crops"
            )
        lengths = sorted({np.size(row) for row in answer})
        if len(lengths) > 1:
            raise ValueError(f"expected embeddings of one length from {what}, got lengths {lengths}")
    try:
        rows = np.asarray(answer, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"expected embeddings (N, D) of numbers from {what}, got {type(answer).__name__} ({error})"
        ) from error
    if rows.ndim == 3 and rows.shape[1] == 1:
        rows = rows[:, 0]  # a list of (1, D)
    if rows.ndim != 2 or len(rows) != count or rows.shape[1] == 0:
        raise ValueError(
            f"expected embeddings of the shape ({count}, D) from {what} for {count} image(s), got "
            f"{rows.shape}; answer with one embedding for each image, in their order"
        )
    if not np.isfinite(rows).all():
        place = int(np.flatnonzero(~np.isfinite(rows).all(1))[0])
        raise ValueError(
            f"expected finite embeddings from {what}, got NaN or infinite values for image {place}"
        )
    return rows
