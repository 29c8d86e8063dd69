"""Reading face images: from files, Pillow's images and numpy arrays. All of the package reads them here."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from captum_face._validation import require_choice

__all__ = [
    "AnyImage",
    "image_size",
    "load_image",
    "load_pixels",
    "require_file",
    "single_image",
    "stored_size",
]

#: What is taken for one image, which is a path, a Pillow image, an array (see
#: :func:`~captum_face.load_image`) or a tensor ``(3, H, W)`` or ``(1, 3, H, W)`` in [0, 1].
AnyImage: TypeAlias = str | Path | Image.Image | np.ndarray | Tensor

#: Files whose further frames are not pictures of their own: previews and depth of phones, layers.
_ONE_PICTURE = ("MPO", "PSD")
_PREMULTIPLIED = ("La", "RGBa")  # colours times opacity, which is what black behind them gives
_BYTES = ("L", "RGB", "CMYK", "YCbCr")  # modes of 8 bits without a palette
_LIMIT_LOCK = threading.RLock()
_ROUNDING = 1e-6  # values of float images this far outside [0, 1] are put to its ends


def load_image(source: str | Path | Image.Image | np.ndarray, *, channels: str | None = None) -> Tensor:
    """One image as float ``(1, 3, H, W)`` in [0, 1], RGB, upright by its EXIF orientation.

    Nothing is resized, cropped or aligned. What is white is said by the kind of the image and never guessed
    from its values: 255 for 8 bits, 65535 for 16 bits, 1 for floats, which must lie in [0, 1]. Of RGB images
    with 16 bits Pillow reads the upper 8. Behind transparent pixels is black, so colours that nobody sees do
    not count. ICC profiles are ignored, as OpenCV does: values are taken as they are stored. Of a file with
    several frames the first is taken, with a warning.

    Args:
        source: A path; a Pillow image of any mode; or a numpy array: ``(H, W, 3)`` colours or ``(H, W)``
            grey, uint8 or floats in [0, 1].
        channels: Order of the colours of an array, ``"rgb"`` or ``"bgr"``. There is no default, as the
            values do not tell: Pillow, imageio and scikit-image give RGB, OpenCV's ``imread`` gives BGR. Only
            for arrays; grey ones need none.

    Raises:
        FileNotFoundError: no such file.
        TypeError: none of these, or an array of other numbers.
        ValueError: the file is no image or is damaged; its kind does not say what is white; a float image
            outside [0, 1]; a fully transparent image; an array of another shape; colours without
            ``channels``, or ``channels`` where there is no array.

    Warns:
        UserWarning: a file has several frames.

    Example::

        >>> picture = np.zeros((112, 96, 3), dtype=np.uint8)
        >>> picture[..., 0] = 51  # blue, as OpenCV orders them
        >>> load_image(picture, channels="bgr")[0, :, 0, 0]
        tensor([0.0000, 0.0000, 0.2000])
    """
    if isinstance(source, np.ndarray):
        return _from_array(source, channels)
    if not isinstance(source, (str, os.PathLike, Image.Image)):
        raise TypeError(
            f"expected an image as a path, a Pillow image or a numpy array, got {type(source).__name__}"
        )
    if channels is not None:
        raise ValueError(
            f"expected channels with numpy arrays alone, got {channels!r} with a "
            f"{type(source).__name__}, which says itself how its colours are ordered"
        )
    if isinstance(source, Image.Image):
        return _read(source, "Pillow image")
    path = require_file(source)
    try:
        with Image.open(path) as image:
            frames = 1 if image.format in _ONE_PICTURE else getattr(image, "n_frames", 1)
            tensor = _read(image, f"image {path}")
    except UnidentifiedImageError as error:
        raise ValueError(f"expected an image file (PNG, JPEG, ...), got {path}, which is none") from error
    except Exception as error:
        raise _unreadable(f"image {path}", error) from error
    if frames > 1:
        warnings.warn(f"{path} has {frames} frames; the first is used", UserWarning, stacklevel=2)
    return tensor


def require_file(path: str | Path) -> Path:
    """The path of an image, if there is a file.

    Raises:
        FileNotFoundError: there is none.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"expected an image file, found {'a folder' if path.is_dir() else 'nothing'} at {path}"
        )
    return path


def single_image(image: AnyImage, channels: str | None = None, device: torch.device | None = None) -> Tensor:
    """One image with its batch dimension.

    Tensors are taken as they are, all else as :func:`~captum_face.load_image` reads it. ``channels`` is the
    order of numpy arrays; a file that is compared with one says its order itself. What is read comes to
    ``device``.

    Raises:
        ValueError: ``channels`` with a tensor.
    """
    if isinstance(image, Tensor):
        if channels is not None:
            raise ValueError(
                f"expected channels with numpy arrays alone, got {channels!r} with a tensor, which is RGB; "
                "turn one of BGR over with image.flip(-3)"
            )
        return image[None] if image.ndim == 3 else image
    return load_image(image, channels=channels if isinstance(image, np.ndarray) else None).to(device)


@contextmanager
def _of_any_size() -> Iterator[None]:
    """Lifts Pillow's own limit, which is one for the whole process, where the caller has one."""
    with _LIMIT_LOCK:
        before = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def stored_size(path: str | Path) -> tuple[int, int]:
    """Width and height of an image file by its header, before it is turned upright; of any number of pixels.

    Raises:
        ValueError: the file cannot be read.
    """
    try:
        with _of_any_size(), Image.open(path) as image:
            return image.size
    except Exception as error:
        raise _unreadable(f"image {path}", error) from error


def load_pixels(source: str | Path | Image.Image | np.ndarray, *, channels: str | None = None) -> np.ndarray:
    """One image as :func:`~captum_face.load_image` reads it, in bytes ``(H, W, 3)``, of any number of pixels.

    What is stored in 8 bits keeps its values and needs a quarter of the memory; more bits are rounded.

    Raises:
        FileNotFoundError, TypeError, ValueError: as :func:`~captum_face.load_image`.
    """
    with _of_any_size():
        picture: Image.Image | None = source if isinstance(source, Image.Image) else None
        if isinstance(source, (str, os.PathLike)) and Path(source).is_file():
            with suppress(Exception):  # load_image says what is wrong
                picture = Image.open(source)
        if picture is not None and picture.mode in _BYTES and not picture.has_transparency_data:
            with suppress(Exception):
                return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
        return (load_image(source, channels=channels)[0] * 255).round().byte().permute(1, 2, 0).numpy()


def image_size(path: str | Path) -> tuple[int, int]:
    """Height and width that :func:`~captum_face.load_image` gives, from the file's header if it tells them.

    Raises:
        ValueError: the file cannot be read.
    """
    try:
        with _of_any_size(), Image.open(path) as image:
            if image.getexif().get(0x0112) in (5, 6, 7, 8):  # lying on its side
                return ImageOps.exif_transpose(image).size[::-1]
            return image.size[::-1]
    except Exception as error:
        raise _unreadable(f"image {path}", error) from error


class _Unfit(ValueError):
    """An image that was read, and whose values do not mean what a face's picture means."""


class _Unreadable(ValueError):
    """An image that could not be read; the message names it."""


def _unreadable(what: str, error: Exception) -> ValueError:
    # Every format has its own exceptions for damaged files, some of them without a word.
    if isinstance(error, (_Unfit, _Unreadable)):
        return error
    return _Unreadable(f"could not read the {what}: {str(error) or type(error).__name__}")


def _read(image: Image.Image, what: str) -> Tensor:
    try:
        white = _white(image)
        stored = _stored_as(image)
        values, opacity = _values(ImageOps.exif_transpose(image), white, stored)
    except _Unfit as error:
        raise _Unfit(f"{what}: {error}") from error
    except Exception as error:
        raise _unreadable(what, error) from error
    if opacity is not None:
        if not opacity.any():
            raise _Unfit(f"{what}: expected a picture, got one in which every pixel is fully transparent")
        if image.mode not in _PREMULTIPLIED:
            values = values * opacity
    return _as_tensor(values)


def _as_tensor(values: np.ndarray) -> Tensor:
    """``(1, 3, H, W)`` of ``(H, W, 3)`` or ``(H, W, 1)``."""
    coloured = np.broadcast_to(values, (*values.shape[:2], 3)).copy()
    return torch.from_numpy(coloured).permute(2, 0, 1)[None]


def _stored_as(image: Image.Image) -> str:
    """How Pillow's decoder calls what is in the file, which it forgets when it has read it; or nothing."""
    tiles = getattr(image, "tile", None) or [None]
    arguments = tiles[0][-1] if tiles[0] is not None else None
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def _white(image: Image.Image) -> tuple[float, bool]:
    """The value of the lightest pixel as the mode and the format say it, and whether it means black."""
    tags = getattr(image, "tag_v2", {})  # of TIFF
    signed, inverted = tags.get(339) in (2, (2,)), tags.get(262) == 0
    if image.mode == "F":
        return 1.0, inverted
    if image.mode.startswith("I;16") and image.format != "FITS":  # of whose bits one is a sign
        return 4095.0 if tags.get(258) in (12, (12,)) else 65535.0, inverted
    if image.mode == "I" and image.format in ("PNG", "PPM"):  # 16 bits, which Pillow hands on as 32
        return 65535.0, False
    if image.mode.startswith("I") or signed:
        raise _Unfit(
            "expected a kind of image that says what is white (8 or 16 bits without a sign, or floats in "
            f"[0, 1]), got {'signed values' if signed else 'integers'} of mode {image.mode}, which can mean "
            "anything; divide them by what is white: Image.fromarray((np.asarray(image) / white).astype("
            "np.float32))"
        )
    return 255.0, False  # Pillow turns those over itself


def _values(
    image: Image.Image, white: tuple[float, bool], stored: str
) -> tuple[np.ndarray, np.ndarray | None]:
    """Values ``(H, W, C)`` float32 in [0, 1] and opacity ``(H, W, 1)``, None where all is opaque."""
    highest, inverted = white
    key = image.info.get("transparency")  # often the one value that means transparent
    if highest != 255:
        pixels = np.asarray(image)[..., None]
        values = pixels / np.float64(highest)
        values = _unit_range(1 - values if inverted else values)
        return values, None if key is None else (pixels != key).astype(np.float32)
    if image.mode in _PREMULTIPLIED:
        parts = np.asarray(image).astype(np.float32) / 255
        return parts[..., :-1], parts[..., -1:]
    if image.mode == "L" and isinstance(key, int) and stored in ("L;2", "L;4"):
        # Pillow spreads the values over 0..255, but not the one that means transparent.
        image.info["transparency"] = key * 255 // (2 ** int(stored[2:]) - 1)
    if image.mode == "RGB" and key is not None and ("16" in stored or max(key) > 255):
        raise _Unfit(
            "expected 8 bits or an alpha channel, got a transparent colour of 16 bits, of which Pillow reads "
            "8; save the image with an alpha channel"
        )
    if not image.has_transparency_data:
        return np.asarray(image.convert("RGB")).astype(np.float32) / 255, None
    parts = np.asarray(image.convert("RGBA")).astype(np.float32) / 255
    return parts[..., :3], parts[..., 3:]


def _unit_range(values: np.ndarray) -> np.ndarray:
    if not np.isfinite(values).all():
        raise _Unfit("expected finite values, got NaN or infinite ones; check how the image was made")
    low, high = float(values.min()), float(values.max())
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        raise _Unfit(
            f"expected floats in [0, 1], got values from {low:.4g} to {high:.4g}; what they mean is not "
            "guessed: divide by the value of white, or cut overshoot with np.clip(values, 0, 1)"
        )
    return np.clip(values, 0, 1).astype(np.float32)


def _from_array(array: np.ndarray, channels: str | None) -> Tensor:
    shape = array.shape
    if channels is not None:
        require_choice(channels, ("rgb", "bgr"), "order of channels")
    if array.ndim not in (2, 3) or (array.ndim == 3 and shape[2] not in (1, 3)) or 0 in shape:
        raise ValueError(f"expected an array (H, W, 3) or (H, W), got {shape}{_shape_advice(array)}")
    if array.dtype == np.uint8:
        values = array.astype(np.float32) / 255
    elif np.issubdtype(array.dtype, np.floating):
        try:
            values = _unit_range(array)
        except _Unfit as error:
            raise ValueError(f"numpy array: {error}") from None
    else:
        raise TypeError(
            f"expected an array of uint8 (0 to 255) or of floats in [0, 1], got {array.dtype}, which does "
            "not say what is white; divide by it: (array / white).astype(np.float32)"
        )
    if array.ndim == 3 and shape[2] == 3:
        if channels is None:
            raise ValueError(
                "expected channels='rgb' or channels='bgr' with an array of colours, got neither: its values "
                "do not tell. Pillow, imageio and scikit-image give RGB, OpenCV's imread gives BGR"
            )
        values = values[..., ::-1] if channels == "bgr" else values
    return _as_tensor(values.reshape(*shape[:2], -1))


def _shape_advice(array: np.ndarray) -> str:
    """What to do with an array of another shape."""
    shape = array.shape
    if array.ndim == 4 and shape[0] == 1:
        return "; give array[0]"
    if array.ndim == 4:
        return "; give the images one by one"
    if array.ndim == 3 and shape[2] == 4:
        return "; remove the fourth channel with array[..., :3], or give Image.fromarray(array)"
    if array.ndim == 3 and shape[2] == 2:
        return "; remove the second channel with array[..., 0], or give Image.fromarray(array, 'LA')"
    if array.ndim == 3 and shape[0] in (1, 3, 4):
        return "; channels come last here: array.transpose(1, 2, 0)"
    return ""
