"""Figures of explanations, identifications, interactions and decoders, drawn from plain data."""

from captum_face.figures.comparison import ExplainedPair, show_comparison
from captum_face.figures.decoder import show_channels, show_counterfactual, show_reconstructions
from captum_face.figures.explanation import show_explanation
from captum_face.figures.identification import ExplainedMatch, ExplainedSearch, show_identification
from captum_face.figures.interactions import show_interactions
from captum_face.figures.on_photos import show_on_photos

__all__ = [
    "ExplainedMatch",
    "ExplainedPair",
    "ExplainedSearch",
    "show_channels",
    "show_comparison",
    "show_counterfactual",
    "show_explanation",
    "show_identification",
    "show_interactions",
    "show_on_photos",
    "show_reconstructions",
]
