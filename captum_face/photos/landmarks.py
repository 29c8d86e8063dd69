"""Landmarks in crops that are cut already."""

from __future__ import annotations

import threading
from collections import OrderedDict
from hashlib import blake2b

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from captum_face.data.alignment import SMALLEST, FaceCheck, check_faces
from captum_face.maps.landmarks import Landmarks
from captum_face.maps.templates import Template
from captum_face.photos.detectors import DlibDetector
from captum_face.photos.detectors.dlib import crop_detector
from captum_face.photos.photo import Photo

__all__ = ["check_crops", "find_landmarks", "remember_landmarks"]

#: The longer side at which a crop is looked at: the detector wants faces of 80 pixels or more, and the
#: predictors answer in whole pixels.
_SIDE = 336
# Images that are remembered; a few hundred bytes each.
_MOST = 10_000
_LOCK = threading.Lock()
_known: OrderedDict[bytes, Landmarks | None] = OrderedDict()


def find_landmarks(images: Tensor) -> list[Landmarks | None] | None:
    """Where the parts of the face lie in each of some crops.

    By dlib's detector and predictors, on the crop enlarged to 336 pixels; of several faces the largest. Faces
    in profile, upside down or covered are often not found. Answers are remembered by what the images show,
    for the last 10,000 images.

    Args:
        images: ``(N, C, H, W)`` in [0, 1], RGB or grey.

    Returns:
        For each image its :class:`~captum_face.maps.landmarks.Landmarks`, in pixels of the image; None where
        no face was found, and for images of less than 28 pixels. None altogether where the extra ``photos``
        is not installed, unless all were cut from photos with landmarks of another detector.

    Cost: about 30 ms for a crop on one core, nothing where it was seen before; 1.5 s once for the predictors.
    """
    images = images.detach().float().cpu()
    try:
        detector = crop_detector()
    except ImportError:
        with _LOCK:
            keys = [_key(image) for image in images]
            return [_known[key] for key in keys] if all(key in _known for key in keys) else None
    return [_remembered(image, detector) for image in images]


def remember_landmarks(image: Tensor, landmarks: Landmarks) -> None:
    """Keeps the landmarks by which a crop ``(1, C, H, W)`` was cut, so that they are not looked for again."""
    _keep(_key(image[0].detach().float().cpu()), landmarks)


def check_crops(images: Tensor, template: str | Template | None) -> tuple[FaceCheck, ...]:
    """:func:`~captum_face.data.check_faces` by the landmarks that :func:`find_landmarks` finds."""
    return check_faces(images, template, None if template is None else find_landmarks(images))


def _remembered(image: Tensor, detector: DlibDetector) -> Landmarks | None:
    key = _key(image)
    with _LOCK:
        if key in _known:
            _known.move_to_end(key)
            return _known[key]
    found = _found(image, detector)
    _keep(key, found)
    return found


def _keep(key: bytes, found: Landmarks | None) -> None:
    with _LOCK:
        _known[key] = found
        while len(_known) > _MOST:
            _known.popitem(last=False)


def _key(image: Tensor) -> bytes:
    digest = blake2b(repr(tuple(image.shape)).encode(), digest_size=16)
    digest.update(image.contiguous().numpy().tobytes())
    return digest.digest()


def _found(image: Tensor, detector: DlibDetector) -> Landmarks | None:
    height, width = image.shape[-2:]
    if min(height, width) < SMALLEST:
        return None
    scale = _SIDE / max(height, width)
    size = round(height * scale), round(width * scale)
    rgb = image[:3] if len(image) >= 3 else image[:1].expand(3, -1, -1)
    large = F.interpolate(rgb[None], size, mode="bilinear", align_corners=False, antialias=scale < 1)[0]
    pixels = (255 * large.clamp(0, 1)).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    faces = detector.find(Photo(pixels, "crop"))
    if not faces:
        return None
    face = max(faces, key=lambda face: (face.box[2] - face.box[0]) * (face.box[3] - face.box[1]))
    ratio = np.array([width / size[1], height / size[0]])

    def small(points: NDArray[np.float64]) -> NDArray[np.float64]:
        return (points + 0.5) * ratio - 0.5

    places = small(np.array([*face.landmarks.values()], float))
    points = {name: (float(x), float(y)) for name, (x, y) in zip(face.landmarks, places, strict=True)}
    return Landmarks(points, None if face.outline is None else small(face.outline))
