"""Reading face images from files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

__all__ = ["load_image"]


def load_image(source: str | Path | Image.Image) -> Tensor:
    """An image as float ``(1, 3, H, W)`` in [0, 1], RGB, upright by its EXIF orientation.

    Nothing is resized, cropped or aligned.

    Args:
        source: A path, or a PIL image.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is no image, or is damaged.
    """
    if isinstance(source, Image.Image):
        return _to_tensor(source)
    path = Path(source)
    if not path.is_file():
        raise FileNotFoundError(
            f"expected an image file, found {'a folder' if path.is_dir() else 'nothing'} at {path}"
        )
    try:
        with Image.open(path) as image:
            return _to_tensor(image)
    except UnidentifiedImageError as error:
        raise ValueError(f"expected an image file (PNG, JPEG, ...), got {path}, which is none") from error
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"could not read the image {path}: {error}") from error


def _to_tensor(image: Image.Image) -> Tensor:
    upright = ImageOps.exif_transpose(image)
    # 16-bit and float images: convert("RGB") would clip them to white.
    if upright.mode.startswith(("I", "F")):
        pixels = np.asarray(upright, dtype=np.float32)
        # Float files hold [0, 1] or 0..255, integer ones 8 or 16 bits; the largest value tells.
        scale = 1.0 if pixels.max() <= 1 else 255.0 if pixels.max() <= 255 else 65535.0
        return torch.from_numpy(pixels / scale).expand(1, 3, -1, -1).contiguous()
    pixels = np.array(upright.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
