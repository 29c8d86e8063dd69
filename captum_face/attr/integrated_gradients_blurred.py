"""Integrated gradients from a blurred copy of the image."""

from __future__ import annotations

from captum_face.attr.integrated_gradients import PairIntegratedGradients
from captum_face.attr.registry import method

__all__ = ["PairBlurredIntegratedGradients"]


@method(
    "integrated_gradients_blurred",
    display="Integrated gradients from a blurred image",
    family="gradient",
    source="arXiv 1703.01365",
    passes="2 n_steps backward, 2 n_steps + 2 forward",
    needs="gradients",
)
class PairBlurredIntegratedGradients(PairIntegratedGradients):
    """:class:`PairIntegratedGradients` from a blurred copy of the image."""

    default_baselines = "blurred"
