"""InsightFace's ``.bin`` files: pairs of encoded images, from files that can be hostile."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image
from torch import Tensor

from captum_face.data._pickles import Array, kind_of, read_pickle
from captum_face.data.face_pairs import FacePairs, ImageSource
from captum_face.data.images import load_image

__all__ = ["EncodedImages", "read_bin"]

FORMATS = ("JPEG", "PNG")
# 200 MB as float32, far above any face crop; a file of some kilobytes can claim to be much larger.
MAX_PIXELS = 4096 * 4096


class EncodedImages(ImageSource):
    """JPEG and PNG images held as the bytes of their files.

    Args:
        encoded: The bytes of each image's name.
    """

    def __init__(self, encoded: Mapping[str, bytes]) -> None:
        super().__init__()
        self.encoded = dict(encoded)

    def _read(self, name: str) -> Tensor:
        try:
            with _open(self.encoded[name]) as image:
                return load_image(image)[0]
        except Exception as error:  # every format has its own exceptions for damaged files
            raise ValueError(f"could not decode {name}: {error}") from error

    def identity(self, name: str) -> str:
        return hashlib.sha256(self.encoded[name]).hexdigest()


def read_bin(path: str | Path) -> FacePairs:
    """Reads pairs from an InsightFace ``.bin`` file, such as ``lfw.bin``; no code in it is run.

    The file is a pickle of ``(images, labels)``: JPEG or PNG files as bytes (or as uint8 arrays, which
    older tools wrote), of which ``2i`` and ``2i + 1`` are a pair, and a truth value for each pair. A
    file that holds or asks for anything else is refused. The encoded images are held in memory, equal
    ones once; they are decoded when they are asked for.

    Args:
        path: The file.

    Returns:
        The pairs; an image's name counts from 0 (``"image-0012"``) where its bytes appear first.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a truncated, damaged or hostile file, numbers of images and labels that don't match,
            or an image that is none; says which.
    """
    path = Path(path)
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing"
        raise FileNotFoundError(f"expected a .bin file of pairs, found {found} at {path}")
    content = read_pickle(path)
    if not isinstance(content, (tuple, list)) or len(content) != 2:
        raise ValueError(f"expected (images, labels) in {path}, got {kind_of(content)}")
    images, labels = content
    labels = _labels(labels, path)
    if not isinstance(images, (tuple, list)):
        raise ValueError(f"expected a list of images in {path}, got {kind_of(images)}")
    if len(images) != 2 * len(labels):
        raise ValueError(
            f"expected two images for each label in {path}, got {len(images)} images and {len(labels)} labels"
        )
    if not images:
        raise ValueError(f"expected pairs in {path}, which is empty")
    encoded, names = _named(images, path)
    return FacePairs(
        list(zip(names[::2], names[1::2], strict=True)),
        labels,
        EncodedImages(encoded),
        source=str(path),
        places=[f"images {i} and {i + 1}" for i in range(0, len(images), 2)],
    )


def _named(images: Sequence[object], path: Path) -> tuple[dict[str, bytes], list[str]]:
    """The bytes of each name, and the name of each image: equal bytes have one name."""
    encoded: dict[str, bytes] = {}
    by_digest: dict[bytes, str] = {}
    # One object can stand for many images, at two bytes of the file each: look at it once.
    by_object: dict[int, str] = {}
    names = []
    for i, image in enumerate(images):
        data = _bytes(image, i, path)
        name = by_object.get(id(data))
        if name is None:
            name = by_digest.setdefault(hashlib.sha256(data).digest(), f"image-{i:04d}")
            if name not in encoded:
                _require_image(data, i, path)
                encoded[name] = data
            by_object[id(data)] = name
        names.append(name)
    return encoded, names


def _bytes(image: object, i: int, path: Path) -> bytes:
    if isinstance(image, Array) and image.code == "u1":
        return image.content
    if not isinstance(image, bytes):
        raise ValueError(f"expected the bytes of an image file as image {i} of {path}, got {kind_of(image)}")
    return image


def _require_image(data: bytes, i: int, path: Path) -> None:
    try:
        with _open(data) as image:
            width, height = image.size
    except Exception as error:  # every format has its own exceptions for damaged files
        raise ValueError(
            f"expected a JPEG or PNG file as image {i} of {path} (pair {i // 2}), got {len(data)} bytes that "
            f"start with {data[:8]!r}"
        ) from error
    if width * height > MAX_PIXELS:
        raise ValueError(
            f"expected an image of at most {MAX_PIXELS} pixels as image {i} of {path} (pair {i // 2}), got "
            f"{height}x{width}"
        )


def _open(data: bytes) -> Image.Image:
    # Formats are named because Pillow hands some of the others (EPS) to programs outside.
    return Image.open(io.BytesIO(data), formats=FORMATS)


def _labels(labels: object, path: Path) -> list[bool]:
    if isinstance(labels, Array) and labels.code == "b1":
        labels = [bool(value) for value in labels.content]
    if not isinstance(labels, (tuple, list)):
        raise ValueError(f"expected a list of labels in {path}, got {kind_of(labels)}")
    for i, label in enumerate(labels):
        if not isinstance(label, int) or label not in (0, 1):
            small = isinstance(label, int) and label.bit_length() < 64
            got = repr(label) if small else kind_of(label)
            raise ValueError(f"expected True or False as label {i} of {path}, got {got}")
    return [bool(label) for label in labels]
