"""Attribution methods for pairs of images, one a file."""

from captum_face.attr._base import PairAttribution
from captum_face.attr._registry import METHODS, Method, get_method
from captum_face.attr.corrrise import CorrRISE
from captum_face.attr.fggb import FGGB

__all__ = ["FGGB", "METHODS", "CorrRISE", "Method", "PairAttribution", "get_method"]
