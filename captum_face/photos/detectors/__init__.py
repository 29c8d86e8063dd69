"""What finds faces and their landmarks in a photo, a module for each."""

from captum_face.photos.detectors.dlib import DlibDetector, default_detector, dlib_file
from captum_face.photos.detectors.insightface import InsightFaceDetector
from captum_face.photos.detectors.landmark_file import LandmarkFile
from captum_face.photos.detectors.mtcnn import MTCNNDetector
from captum_face.photos.detectors.protocol import Detector
from captum_face.photos.detectors.resolving import DETECTOR, resolve_detector
from captum_face.photos.detectors.yunet import YuNetDetector

__all__ = [
    "DETECTOR",
    "Detector",
    "DlibDetector",
    "InsightFaceDetector",
    "LandmarkFile",
    "MTCNNDetector",
    "YuNetDetector",
    "default_detector",
    "dlib_file",
    "resolve_detector",
]
