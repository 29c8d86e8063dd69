"""From a photo to an aligned crop, and back."""

from captum_face.maps.templates import FIVE_POINTS, TEMPLATES, Template
from captum_face.photos.crops import PhotoCrop, PhotoView, align_face, load_crop
from captum_face.photos.detectors import (
    DETECTOR,
    Detector,
    DlibDetector,
    InsightFaceDetector,
    LandmarkFile,
    MTCNNDetector,
    YuNetDetector,
    resolve_detector,
)
from captum_face.photos.faces import Face
from captum_face.photos.finding import NoFaceError, choose_face, find_faces
from captum_face.photos.folder import AlignedFolder, align_folder
from captum_face.photos.landmarks import check_crops, find_landmarks
from captum_face.photos.photo import MAX_PIXELS, Photo, load_photo

__all__ = [
    "DETECTOR",
    "FIVE_POINTS",
    "MAX_PIXELS",
    "TEMPLATES",
    "AlignedFolder",
    "Detector",
    "DlibDetector",
    "Face",
    "InsightFaceDetector",
    "LandmarkFile",
    "MTCNNDetector",
    "NoFaceError",
    "Photo",
    "PhotoCrop",
    "PhotoView",
    "Template",
    "YuNetDetector",
    "align_face",
    "align_folder",
    "check_crops",
    "choose_face",
    "find_faces",
    "find_landmarks",
    "load_crop",
    "load_photo",
    "resolve_detector",
]
