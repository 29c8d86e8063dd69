"""Explains why a face recognition model accepts or rejects a pair of images, as a plugin for Captum."""

from captum_face.attr import (
    FAME,
    FGGB,
    METHODS,
    RISE,
    XSSAB,
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
    PairInputXGradient,
    PairIntegratedGradients,
    PairKernelShap,
    PairOcclusion,
    PairPartnerIntegratedGradients,
    PairSaliency,
    Random,
    XFace,
)
from captum_face.explanation import Explanation, explain
from captum_face.pair import PairSimilarity
from captum_face.postprocessing import smooth, split_attribution
from captum_face.visualization import show_comparison, show_explanation

__version__ = "0.1.0"

__all__ = [
    "FAME",
    "FGGB",
    "METHODS",
    "RISE",
    "XSSAB",
    "Center",
    "CorrRISE",
    "EachSide",
    "Explanation",
    "MinPlus",
    "PairAttribution",
    "PairBlurredIntegratedGradients",
    "PairDeepLift",
    "PairFeatureAblation",
    "PairGradCam",
    "PairGradientShap",
    "PairGuidedBackprop",
    "PairInputXGradient",
    "PairIntegratedGradients",
    "PairKernelShap",
    "PairOcclusion",
    "PairPartnerIntegratedGradients",
    "PairSaliency",
    "PairSimilarity",
    "Random",
    "XFace",
    "__version__",
    "explain",
    "show_comparison",
    "show_explanation",
    "smooth",
    "split_attribution",
]
