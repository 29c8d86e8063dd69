"""Attribution methods for pairs of images: one file for each, named as the registry names it."""

# In the order in which tables list them.
# isort: off
from captum_face.attr.base import DetailedAttributions, PairAttribution, on_sides
from captum_face.attr.registry import METHODS, get_method, method
from captum_face.attr.fggb import FGGB
from captum_face.attr.corrrise import CorrRISE
from captum_face.attr.morph_gradients import MorphGradients
from captum_face.attr.swap_rise import SwapRISE
from captum_face.attr.reconstruction import Reconstruction
from captum_face.attr.xssab import XSSAB
from captum_face.attr.xface import XFace
from captum_face.attr.minplus import MinPlus
from captum_face.attr.rise import RISE
from captum_face.attr.fame import FAME
from captum_face.attr.saliency import PairSaliency
from captum_face.attr.input_x_gradient import PairInputXGradient
from captum_face.attr.integrated_gradients import PairIntegratedGradients
from captum_face.attr.integrated_gradients_blurred import PairBlurredIntegratedGradients
from captum_face.attr.integrated_gradients_partner import PairPartnerIntegratedGradients
from captum_face.attr.gradient_shap import PairGradientShap
from captum_face.attr.deep_lift import PairDeepLift
from captum_face.attr.guided_backprop import PairGuidedBackprop
from captum_face.attr.layer_gradcam import PairGradCam
from captum_face.attr.hirescam import PairHiResCam
from captum_face.attr.occlusion import PairOcclusion
from captum_face.attr.feature_ablation import PairFeatureAblation
from captum_face.attr.kernel_shap import PairKernelShap
from captum_face.attr.lrp import LRP
from captum_face.attr.bilrp import BiLRP
from captum_face.attr.random import Random
from captum_face.attr.center import Center
from captum_face.attr.each_side import EachSide

# isort: on

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
    "Random",
    "Reconstruction",
    "SwapRISE",
    "XFace",
    "get_method",
    "method",
    "on_sides",
]
