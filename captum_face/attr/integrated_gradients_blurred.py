"""Integrated gradients from a blurred copy of the image."""

from __future__ import annotations

from captum_face.attr.integrated_gradients import PairIntegratedGradients

__all__ = ["PairBlurredIntegratedGradients"]


class PairBlurredIntegratedGradients(PairIntegratedGradients):
    """:class:`PairIntegratedGradients` from a blurred copy of the image.

    Args:
        forward_func: The :class:`~captum_face.PairSimilarity` to explain; its model must be
            differentiable.
    """

    default_baselines = "blurred"
