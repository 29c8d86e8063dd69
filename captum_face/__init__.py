"""Explains why a face recognition model accepts or rejects a pair of images, as a plugin for Captum.

Public names are imported when they are asked for, so that ``import captum_face`` loads neither PyTorch nor
Captum.
"""

import warnings
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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
        DetailedAttributions,
        EachSide,
        MinPlus,
        MorphGradients,
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
        SwapRISE,
        XFace,
        method,
        on_sides,
    )
    from captum_face.data.images import load_image
    from captum_face.figures import (
        show_comparison,
        show_explanation,
        show_identification,
        show_interactions,
    )
    from captum_face.maps import smooth, split_attribution
    from captum_face.pair import PairSimilarity
    from captum_face.results.explanation import Explanation, explain
    from captum_face.results.gallery import GalleryAttributions, attribute_gallery
    from captum_face.results.identification import Identification, Match, identify

from captum_face._version import __version__

# Captum imports tqdm.auto, which warns in every notebook without ipywidgets, on red ground.
warnings.filterwarnings("ignore", "IProgress not found")

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
    "DetailedAttributions",
    "EachSide",
    "Explanation",
    "GalleryAttributions",
    "Identification",
    "Match",
    "MinPlus",
    "MorphGradients",
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
    "SwapRISE",
    "XFace",
    "__version__",
    "attribute_gallery",
    "explain",
    "identify",
    "load_image",
    "method",
    "on_sides",
    "show_comparison",
    "show_explanation",
    "show_identification",
    "show_interactions",
    "smooth",
    "split_attribution",
]

#: Where each public name comes from: the methods and what they are made with from one place.
_HOMES = dict.fromkeys(__all__, "captum_face.attr") | {
    "Explanation": "captum_face.results.explanation",
    "GalleryAttributions": "captum_face.results.gallery",
    "Identification": "captum_face.results.identification",
    "Match": "captum_face.results.identification",
    "PairSimilarity": "captum_face.pair",
    "attribute_gallery": "captum_face.results.gallery",
    "explain": "captum_face.results.explanation",
    "identify": "captum_face.results.identification",
    "load_image": "captum_face.data.images",
    "show_comparison": "captum_face.figures",
    "show_explanation": "captum_face.figures",
    "show_identification": "captum_face.figures",
    "show_interactions": "captum_face.figures",
    "smooth": "captum_face.maps",
    "split_attribution": "captum_face.maps",
}

if not TYPE_CHECKING:  # type checkers read the imports above, and find names that do not exist

    def __getattr__(name: str) -> object:
        """A public name, or a package in this one; see PEP 562."""
        if name in _HOMES:
            value = getattr(import_module(_HOMES[name]), name)
        elif not name.startswith("__") and find_spec(f"{__name__}.{name}") is not None:
            value = import_module(f"{__name__}.{name}")
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value  # for the next time
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
