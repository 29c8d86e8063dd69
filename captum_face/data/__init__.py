"""Data: pairs of face images, and synthetic faces of which it is known what differs."""

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
    "FacePair",
    "FacePairs",
    "read_bin",
    "read_csv",
    "read_lfw",
    "read_pairs",
    "synthetic_pairs",
]
