"""Data: face images, pairs of them, and synthetic faces of which it is known what differs."""

from captum_face.data.alignment import FaceCheck, check_faces
from captum_face.data.faces import image_files, read_faces, render_faces
from captum_face.data.pairs import (
    FacePair,
    FacePairs,
    read_bin,
    read_csv,
    read_lfw,
    read_pairs,
    synthetic_pairs,
)

__all__ = [
    "FaceCheck",
    "FacePair",
    "FacePairs",
    "check_faces",
    "image_files",
    "read_bin",
    "read_csv",
    "read_faces",
    "read_lfw",
    "read_pairs",
    "render_faces",
    "synthetic_pairs",
]
