"""Saliency for pairs: the gradient of the score."""

from __future__ import annotations

import captum.attr
from captum.log import log_usage
from torch import Tensor

from captum_face.attr.each_side import _EachSide

__all__ = ["PairSaliency"]


class PairSaliency(_EachSide):
    """Gradient of the score (Simonyan, Vedaldi and Zisserman 2013, arXiv 1312.6034).

    :class:`captum.attr.Saliency` on each side.

    Args:
        forward_func: The :class:`~captum_face.PairSimilarity` to explain; its model must be
            differentiable.
    """

    @log_usage()
    def attribute(
        self, inputs: tuple[Tensor, Tensor], *, abs: bool = False, show_progress: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Maps of both images; what the inputs and the result are stands at
        :class:`~captum_face.PairAttribution`.

        Args:
            inputs: ``(image_a, image_b)``.
            abs: Take absolute values as published, which leaves no evidence against a match.
            show_progress: Show a progress bar over the images.

        Returns:
            ``(attr_a, attr_b)`` in score per brightness. Positive where making the pixel brighter raises
            the score: a direction of change, not evidence of what is there. Deterministic.

        Cost: for each image and partner one forward and one backward pass, and a forward pass for the
        partner.

        Raises:
            TypeError: ``forward_func`` is not a :class:`~captum_face.PairSimilarity`, or its model cannot
                be differentiated.
            ValueError: bad images.
        """
        return self._on_each_side(inputs, captum.attr.Saliency, {"abs": abs}, show_progress=show_progress)
