"""The MTCNN of facenet-pytorch."""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from captum_face.photos._warping import require_extra
from captum_face.photos.detectors._looking import LOOKED_AT, five_points, resized, shrinking, unscaled
from captum_face.photos.faces import Face
from captum_face.photos.photo import Photo

__all__ = ["MTCNNDetector"]


class MTCNNDetector:
    """The ``MTCNN`` of facenet-pytorch, whose networks come with its package.

    Crops of the template ``"facenet"`` are along its boxes, as its own ``extract_face`` makes them.

    Args:
        mtcnn: A ``facenet_pytorch.MTCNN``; None for one with its defaults, on the CPU.
        max_pixels: The most pixels at which a photo is looked at; larger ones are shrunk for that.

    Cost: about 1 s for each megapixel on one core.

    Raises:
        ImportError: facenet-pytorch is not installed.
        TypeError: no ``MTCNN``.
    """

    name: ClassVar[str] = "facenet-pytorch's MTCNN"

    def __init__(self, mtcnn: Any = None, *, max_pixels: int = LOOKED_AT) -> None:
        self.mtcnn = _networks() if mtcnn is None else mtcnn
        if not callable(getattr(self.mtcnn, "detect", None)):
            raise TypeError(f"expected a facenet_pytorch.MTCNN, got {type(mtcnn).__name__}")
        self.max_pixels = max_pixels
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        sure = ", ".join(f"{value:g}" for value in getattr(self.mtcnn, "thresholds", ()))
        smallest = getattr(self.mtcnn, "min_face_size", None)
        return f"MTCNNDetector(max_pixels={self.max_pixels}, thresholds=({sure}), min_face_size={smallest})"

    def find(self, photo: Photo) -> list[Face]:
        scale = shrinking(photo, self.max_pixels)
        with self._lock:
            boxes, scores, points = self.mtcnn.detect(resized(photo.pixels, scale), landmarks=True)
        if boxes is None:
            return []
        faces = []
        for box, score, five in zip(boxes, scores, points, strict=True):
            left, top, right, bottom = (float(edge) / scale for edge in box)
            five = five_points(unscaled(np.asarray(five, float), scale))
            faces.append(Face(photo, (left, top, right, bottom), five, float(score), mtcnn=True))
        return faces

    def tried(self, photo: Photo) -> str:
        """What was looked at, in words."""
        scale = shrinking(photo, self.max_pixels)
        return f"{self.name} looked at it in {photo.size[1] * scale:.0f} x {photo.size[0] * scale:.0f} pixels"


@lru_cache(maxsize=1)
def _networks() -> Any:
    package = require_extra(
        "facenet_pytorch",
        "MTCNN",
        "pip install facenet-pytorch, with --no-deps if it asks for an older torch",
    )
    return package.MTCNN(keep_all=True)
