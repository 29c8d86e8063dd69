"""Photos as detectors take them: bytes, upright, of a size that memory holds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from captum_face._files import printable
from captum_face._validation import require_images
from captum_face.data.images import AnyImage, load_pixels, single_image, stored_size

__all__ = ["MAX_PIXELS", "Photo", "load_photo"]

#: Photos of more pixels are refused unless the limit is raised: 64 megapixels.
MAX_PIXELS = 64_000_000
#: No detector finds a face in fewer pixels.
_SMALLEST = 16


@dataclass(frozen=True, eq=False, repr=False)
class Photo:
    """A photo in bytes; made by :func:`load_photo`."""

    pixels: np.ndarray  #: ``(H, W, 3)`` uint8, RGB, upright
    name: str = "photo"  #: what messages call it, such as its file name
    path: Path | None = None  #: None for what did not come from a file

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return int(self.pixels.shape[0]), int(self.pixels.shape[1])

    def __repr__(self) -> str:
        return f"Photo({self.name}, {self.size[1]} x {self.size[0]})"


def load_photo(
    image: AnyImage | Photo,
    *,
    channels: str | None = None,
    max_pixels: int | None = None,
    name: str | None = None,
) -> Photo:
    """Reads a photo, upright by its EXIF orientation, in 8 bits.

    Args:
        image: A path, a Pillow image, an array or a tensor, read as :func:`~captum_face.load_image` does.
        channels: Order of the colours of an array, ``"rgb"`` or ``"bgr"``.
        max_pixels: The most pixels; None for :data:`MAX_PIXELS`. It is looked at before pixels are read.
        name: What messages call it; None for the file name, where there is one.

    Raises:
        FileNotFoundError, TypeError, ValueError: as :func:`~captum_face.load_image`; a photo of more pixels
            than ``max_pixels``, or of fewer than 16 in a row or column.

    Cost: 3 bytes of memory for each pixel, and about twice as many while a file is decoded.
    """
    if isinstance(image, Photo):
        return image
    limit = MAX_PIXELS if max_pixels is None else max_pixels
    path = Path(image) if isinstance(image, (str, Path)) else None
    called = name or (printable(path.name) if path else "photo")
    if path is not None and path.is_file():
        _require_few(math.prod(stored_size(path)), limit, called)
    elif isinstance(image, Image.Image):
        _require_few(image.height * image.width, limit, called)
    if isinstance(image, Tensor):
        tensor = require_images(single_image(image, channels), called)
        if len(tensor) != 1 or tensor.shape[1] != 3:
            raise ValueError(f"expected one photo (1, 3, H, W), got {tuple(tensor.shape)}")
        pixels = (tensor[0].detach().float().cpu() * 255).round().byte().permute(1, 2, 0).numpy()
    else:
        pixels = load_pixels(image, channels=channels)
    height, width = pixels.shape[:2]
    _require_few(height * width, limit, called)
    if min(height, width) < _SMALLEST:
        raise ValueError(
            f"expected a photo of {_SMALLEST} pixels or more in rows and columns, got {called} with {width} "
            f"x {height}, in which no face can be found"
        )
    return Photo(np.ascontiguousarray(pixels), called, path)


def _require_few(count: int, limit: int, name: str) -> None:
    if count > limit:
        raise ValueError(
            f"expected a photo of at most {limit / 1e6:g} megapixels, got {name} with {count / 1e6:.1f}; "
            f"make it smaller, or raise the limit with max_pixels={count} (on the command line "
            f"--max-megapixels {math.ceil(count / 1e6)})"
        )
