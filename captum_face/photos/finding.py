"""Finding the faces in a photo, and choosing one of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from captum_face.data.images import AnyImage
from captum_face.maps.templates import FIVE_POINTS, fault_of_points
from captum_face.photos.detectors import Detector, resolve_detector
from captum_face.photos.faces import Face
from captum_face.photos.photo import Photo, load_photo

__all__ = ["FaceChoice", "NoFaceError", "choose_face", "find_faces"]

#: Which face of a photo is chosen, by its number, or by the point that is nearest; None for the largest.
FaceChoice: TypeAlias = int | tuple[float, float] | None


class NoFaceError(ValueError):
    """A photo in which no face was found."""


def find_faces(
    photo: AnyImage | Photo,
    detector: Detector | str | Path | None = None,
    *,
    channels: str | None = None,
    max_pixels: int | None = None,
) -> list[Face]:
    """The faces in a photo, the largest first.

    Args:
        photo: A path, a Pillow image, an array, a tensor or a :class:`Photo`; turned upright by EXIF.
        detector: What finds them, or its text as :func:`~captum_face.photos.resolve_detector` takes it; None
            for dlib's (:class:`~captum_face.photos.DlibDetector`), which the extra ``photos`` installs.
        channels: Order of the colours of an array, ``"rgb"`` or ``"bgr"``.
        max_pixels: The most pixels of a photo; None for :data:`MAX_PIXELS`.

    Returns:
        A :class:`Face` for each; an empty list if there is none.

    Raises:
        ImportError: the detector is not installed; the message says what installs it.
        FileNotFoundError, TypeError, ValueError: as :func:`load_photo`; also a detector whose answer is no
            face: without one of :data:`FIVE_POINTS`, not finite, left and right swapped, in other units than
            pixels, or with landmarks far outside the photo.
    """
    photo = load_photo(photo, channels=channels, max_pixels=max_pixels)
    finder = resolve_detector(detector)
    faces = [_checked(face, finder) for face in finder.find(photo)]
    return sorted(faces, key=lambda face: -_area(face))


def choose_face(faces: Sequence[Face], face: FaceChoice = None) -> int:
    """The place of one face in a list of them.

    Args:
        faces: Of one photo, as :func:`find_faces` gives them.
        face: Its number, from 0, in that order; or a point ``(x, y)`` of the photo, whose nearest face is
            taken; None for the first, which is the largest.

    Raises:
        TypeError, ValueError: no such face.
    """
    if not faces:
        raise ValueError("expected faces to choose from, got none")
    if face is None:
        return 0
    if isinstance(face, (int, np.integer)) and not isinstance(face, bool):
        if not 0 <= face < len(faces):
            raise ValueError(
                f"expected face as a number from 0 to {len(faces) - 1}, as {faces[0].photo.name} shows "
                f"{len(faces)}, got {face}; 0 is the largest"
            )
        return int(face)
    if isinstance(face, Sequence) and len(face) == 2 and all(isinstance(v, (int, float)) for v in face):
        height, width = faces[0].photo.size
        if not (0 <= face[0] < width and 0 <= face[1] < height):
            raise ValueError(
                f"expected face as a point (x, y) of {faces[0].photo.name}, which has {width} x {height} "
                f"pixels, got {tuple(face)}"
            )
        return min(range(len(faces)), key=lambda i: math.dist(face, _centre(faces[i])))
    raise TypeError(f"expected face as a number or a point (x, y), got {face!r}")


def _centre(face: Face) -> tuple[float, float]:
    left, top, right, bottom = face.box
    return (left + right) / 2, (top + bottom) / 2


def _area(face: Face) -> float:
    left, top, right, bottom = face.box
    return (right - left) * (bottom - top)


def _checked(face: Any, detector: Any) -> Face:
    """A detector's answer, if it is a face of its photo."""
    name = getattr(detector, "name", type(detector).__name__)
    if not isinstance(face, Face):
        raise TypeError(f"expected faces as captum_face.photos.Face from {name}, got {type(face).__name__}")
    missing = [point for point in FIVE_POINTS if point not in face.landmarks]
    if missing:
        raise ValueError(
            f"expected the landmarks {', '.join(FIVE_POINTS)} from {name}, got none for {', '.join(missing)}"
        )
    points = np.array([*face.landmarks.values()], float)
    left, top, right, bottom = face.box
    if not (np.isfinite(points).all() and np.isfinite(face.box).all() and right > left and bottom > top):
        raise ValueError(
            f"expected finite landmarks and a box (left, top, right, bottom) from {name}, got the box "
            f"{tuple(face.box)} and the landmarks {dict(face.landmarks)}"
        )
    if fault := fault_of_points(face.landmarks):
        raise ValueError(f"expected landmarks in pixels of {face.photo.name} from {name}, got a face {fault}")
    height, width = face.photo.size
    # A face that the border cuts has landmarks a little outside.
    beyond = np.maximum(-points, points - (width - 1, height - 1)).max(1)
    worst = int(beyond.argmax())
    if beyond[worst] > max(right - left, bottom - top) / 2:
        point, (x, y) = [*face.landmarks][worst], points[worst]
        raise ValueError(
            f"expected landmarks in {face.photo.name}, which has {width} x {height} pixels, got {point} at "
            f"({x:.0f}, {y:.0f}) from {name}; landmarks are (x, y) in pixels of the upright photo"
        )
    return face
