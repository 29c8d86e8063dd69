"""YuNet, the detector of OpenCV."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import numpy as np

from captum_face.photos._warping import require_extra
from captum_face.photos.detectors._looking import five_points, resized, unscaled
from captum_face.photos.faces import Face
from captum_face.photos.photo import Photo

__all__ = ["YuNetDetector"]

_NAMED = "face_detection_yunet_2023mar.onnx"


class YuNetDetector:
    """OpenCV's ``FaceDetectorYN`` with the YuNet network, which gives five landmarks.

    YuNet is made for faces of 10 to 300 pixels. So photos are looked at with 640 pixels in their longer side
    or fewer, and where no face is found again with 1280.

    Args:
        path: The network, such as ``face_detection_yunet_2023mar.onnx`` of OpenCV's model zoo
            (https://github.com/opencv/opencv_zoo, MIT licence).
        threshold: How sure the detector must be, 0 to 1; higher finds fewer.

    Raises:
        ImportError: OpenCV is not installed, or older than 4.5.4.
        FileNotFoundError, ValueError: no such file, or none that OpenCV can read.
    """

    def __init__(self, path: str | Path, *, threshold: float = 0.7) -> None:
        cv2 = require_extra("cv2", "YuNet", "pip install opencv-python-headless")
        self.path, self.threshold = Path(path), threshold
        self.name = f"YuNet ({self.path.name})"
        if not self.path.is_file():
            raise FileNotFoundError(
                f"expected the network of YuNet, such as {_NAMED} of https://github.com/opencv/opencv_zoo, "
                f"found no file at {path}"
            )
        if not hasattr(cv2, "FaceDetectorYN"):
            raise ImportError(
                f"YuNet needs OpenCV 4.5.4 or newer, this is {cv2.__version__}: "
                "pip install -U opencv-python-headless"
            )
        try:
            self._detector = cv2.FaceDetectorYN.create(str(self.path), "", (320, 320), threshold)
        except cv2.error as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"expected the network of YuNet, OpenCV cannot read {path}: {reason}") from error
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        digest = hashlib.sha256(self.path.read_bytes()).hexdigest()[:12]
        return f"YuNetDetector({self.path.name}, threshold={self.threshold:g}, sha256 {digest})"

    def find(self, photo: Photo) -> list[Face]:
        for scale in self._scales(photo):
            picture = resized(photo.pixels, scale)[..., ::-1]
            with self._lock:
                self._detector.setInputSize((picture.shape[1], picture.shape[0]))
                rows = self._detector.detect(np.ascontiguousarray(picture))[1]
            if rows is not None and len(rows):
                return [self._face(photo, row, scale) for row in np.asarray(rows, float)]
        return []

    def tried(self, photo: Photo) -> str:
        """What was looked at, in words."""
        sizes = [f"{photo.size[1] * s:.0f} x {photo.size[0] * s:.0f}" for s in self._scales(photo)]
        return f"{self.name} looked at it in {' and '.join(sizes)} pixels"

    @staticmethod
    def _scales(photo: Photo) -> list[float]:
        return sorted({min(1.0, side / max(photo.size)) for side in (640, 1280)})

    @staticmethod
    def _face(photo: Photo, row: np.ndarray, scale: float) -> Face:
        # Its right eye is the person's, which is the viewer's left.
        (left, top), (wide, high) = row[:2] / scale, row[2:4] / scale
        box = (float(left), float(top), float(left + wide), float(top + high))
        return Face(photo, box, five_points(unscaled(row[4:14].reshape(5, 2), scale)), float(row[14]))
