"""Explains why a face recognition model accepts or rejects a pair of images, as a plugin for Captum."""

from captum_face.attr import FGGB, METHODS, CorrRISE, PairAttribution
from captum_face.explanation import Explanation, explain
from captum_face.pair import PairSimilarity
from captum_face.postprocessing import smooth, split_attribution
from captum_face.visualization import show_comparison, show_explanation

__version__ = "0.1.0"

__all__ = [
    "FGGB",
    "METHODS",
    "CorrRISE",
    "Explanation",
    "PairAttribution",
    "PairSimilarity",
    "__version__",
    "explain",
    "show_comparison",
    "show_explanation",
    "smooth",
    "split_attribution",
]
