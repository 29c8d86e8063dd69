"""Recognisers that take uint8 images and answer with embeddings, as functions of image tensors."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from captum_face._validation import require_choice
from captum_face.models.adapters._pixels import Pixels, as_embeddings, as_pixels

__all__ = ["BlackBox"]


class BlackBox:
    """A recogniser without gradients, from image tensors to embeddings.

    Args:
        call: From a list of N uint8 arrays ``(H, W, 3)`` to N embeddings: an array ``(N, D)`` or a list.
        name: What messages and results call it, with the version: a benchmark takes black boxes of one name
            for the same.
        channels: Order of the colours that ``call`` takes, ``"rgb"`` or ``"bgr"`` (OpenCV).
        input_size: Height and width of its images; None for any.

    Shape: images ``(N, 3, H, W)`` in [0, 1], RGB, to ``(N, D)``. Values are rounded to 256 levels.

    Methods that need gradients refuse it; the others explain it. One thread at a time calls it.

    Raises:
        ValueError, TypeError: images of another size; what is not one finite embedding for each image.

    Example::

        >>> import torch
        >>> colour = BlackBox(lambda images: [image.mean((0, 1)) for image in images], name="mean colour")
        >>> colour(torch.ones(2, 3, 8, 8)).shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        call: Callable[[list[Pixels]], Any],
        *,
        name: str,
        channels: str = "rgb",
        input_size: tuple[int, int] | None = None,
    ) -> None:
        if not callable(call):
            raise TypeError(f"expected call to be a function of a list of images, got {type(call).__name__}")
        self.call = call
        self.name = name
        self.channels = require_choice(channels, ("rgb", "bgr"), "order of channels")
        self.input_size = input_size
        self._lock = threading.Lock()

    def __call__(self, images: Tensor) -> Tensor:
        """Embeddings ``(N, D)`` of ``images`` ``(N, 3, H, W)``; without gradients."""
        pixels = as_pixels(images, self.channels, self.input_size)
        with self._lock:
            rows = as_embeddings(self.call(pixels), len(pixels), self.name)
        return torch.from_numpy(rows).to(images.device, torch.promote_types(images.dtype, torch.float32))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name})"
