"""Integrated gradients from the other image of the pair."""

from __future__ import annotations

from captum_face.attr.integrated_gradients import PairIntegratedGradients
from captum_face.attr.registry import method

__all__ = ["PairPartnerIntegratedGradients"]


@method(
    "integrated_gradients_partner",
    display="Integrated gradients from the partner",
    family="gradient",
    source="arXiv 1703.01365",
    passes="2 n_steps backward, 2 n_steps + 2 forward",
    needs="gradients",
)
class PairPartnerIntegratedGradients(PairIntegratedGradients):
    """:class:`PairIntegratedGradients` from the other image of the pair: why is this no perfect match?

    The map sums to the score less the score of the partner against itself, which under the cosine is
    1: nearly all of it is evidence against. The images must be aligned to each other.
    """

    default_baselines = "partner"
