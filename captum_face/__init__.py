"""Explains why a face recognition model accepts or rejects a pair of images, as a plugin for Captum."""

from captum_face.attr import (
    FAME,
    FGGB,
    LRP,
    METHODS,
    RISE,
    XSSAB,
    BiLRP,
    Center,
    CorrRISE,
    EachSide,
    MinPlus,
    PairAttribution,
    PairBlurredIntegratedGradients,
    PairDeepLift,
    PairFeatureAblation,
    PairGradCam,
    PairGradientShap,
    PairGuidedBackprop,
    PairHiResCam,
    PairInputXGradient,
    PairIntegratedGradients,
    PairKernelShap,
    PairOcclusion,
    PairPartnerIntegratedGradients,
    PairSaliency,
    Random,
    Reconstruction,
    XFace,
)
from captum_face.explanation import Explanation, explain
from captum_face.gallery import GalleryAttributions, attribute_gallery
from captum_face.identification import Identification, Match, identify
from captum_face.identification_figure import show_identification
from captum_face.interactions import show_interactions
from captum_face.pair import PairSimilarity
from captum_face.postprocessing import smooth, split_attribution
from captum_face.visualization import show_comparison, show_explanation

__version__ = "0.1.0"

__all__ = [
    "FAME",
    "FGGB",
    "LRP",
    "METHODS",
    "RISE",
    "XSSAB",
    "BiLRP",
    "Center",
    "CorrRISE",
    "EachSide",
    "Explanation",
    "GalleryAttributions",
    "Identification",
    "Match",
    "MinPlus",
    "PairAttribution",
    "PairBlurredIntegratedGradients",
    "PairDeepLift",
    "PairFeatureAblation",
    "PairGradCam",
    "PairGradientShap",
    "PairGuidedBackprop",
    "PairHiResCam",
    "PairInputXGradient",
    "PairIntegratedGradients",
    "PairKernelShap",
    "PairOcclusion",
    "PairPartnerIntegratedGradients",
    "PairSaliency",
    "PairSimilarity",
    "Random",
    "Reconstruction",
    "XFace",
    "__version__",
    "attribute_gallery",
    "explain",
    "identify",
    "show_comparison",
    "show_explanation",
    "show_identification",
    "show_interactions",
    "smooth",
    "split_attribution",
]
