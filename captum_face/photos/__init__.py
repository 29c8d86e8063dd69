"""From a photo to an aligned crop, and back."""

from captum_face.maps.templates import FIVE_POINTS, TEMPLATES, Template
from captum_face.photos.crops import PhotoCrop, PhotoView, align_face, load_crop
from captum_face.photos.detectors import Detector, DlibDetector
from captum_face.photos.faces import Face
from captum_face.photos.finding import NoFaceError, choose_face, find_faces
from captum_face.photos.photo import MAX_PIXELS, Photo, load_photo

__all__ = [
    "FIVE_POINTS",
    "MAX_PIXELS",
    "TEMPLATES",
    "Detector",
    "DlibDetector",
    "Face",
    "NoFaceError",
    "Photo",
    "PhotoCrop",
    "PhotoView",
    "Template",
    "align_face",
    "choose_face",
    "find_faces",
    "load_crop",
    "load_photo",
]
