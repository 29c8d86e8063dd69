"""Detectors by name."""

from __future__ import annotations

from pathlib import Path

from captum_face._validation import require_choice
from captum_face.photos.detectors.dlib import default_detector
from captum_face.photos.detectors.insightface import InsightFaceDetector
from captum_face.photos.detectors.landmark_file import LandmarkFile
from captum_face.photos.detectors.mtcnn import MTCNNDetector
from captum_face.photos.detectors.protocol import Detector
from captum_face.photos.detectors.yunet import YuNetDetector

__all__ = ["DETECTOR", "resolve_detector"]

#: How a detector is written in a text, as the command line shows it.
DETECTOR = "dlib, mtcnn, insightface[:MODEL_PACK], yunet:FILE.onnx, or landmarks as FILE.csv or FILE.json"


def resolve_detector(detector: Detector | str | Path | None) -> Detector:
    """Turns the text of a detector into the detector, and lets a detector through.

    Args:
        detector: ``"dlib"``, ``"mtcnn"``, ``"insightface"`` or ``"insightface:MODEL_PACK"``,
            ``"yunet:FILE.onnx"``, or the path of a :class:`~captum_face.photos.LandmarkFile`, ``FILE.csv``
            or ``FILE.json``; or an object with ``find(photo)``; None for dlib's.

    Raises:
        ValueError: no such detector; the message says the nearest name.
        ImportError, FileNotFoundError: as the detector's class: what it needs is not there.
        TypeError: neither a text nor a detector.
    """
    if detector is None:
        return default_detector()
    if not isinstance(detector, (str, Path)):
        if isinstance(detector, type) or not isinstance(detector, Detector):
            found = f"the class {detector.__name__}" if isinstance(detector, type) else repr(detector)
            raise TypeError(
                f"expected a detector, an object with find(photo), or a text: {DETECTOR}, got {found}"
            )
        return detector
    text = str(detector)
    name, colon, argument = text.partition(":")
    if name == "insightface":
        return InsightFaceDetector(argument) if argument else InsightFaceDetector()
    if name == "yunet":
        if not argument:
            raise ValueError("expected the detector yunet with its network, as yunet:FILE.onnx, got no file")
        return YuNetDetector(argument)
    if Path(text).suffix.lower() in (".csv", ".json"):
        return LandmarkFile(text)
    if Path(text).suffix.lower() == ".onnx":
        raise ValueError(f"expected a detector ({DETECTOR}), got {text!r}; write yunet:{text}")
    require_choice(name, ("dlib", "mtcnn", "insightface", "yunet", "FILE.csv", "FILE.json"), "detector")
    if colon or name.startswith("FILE"):
        raise ValueError(f"expected a detector ({DETECTOR}), got {text!r}")
    return MTCNNDetector() if name == "mtcnn" else default_detector()
