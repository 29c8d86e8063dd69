"""Input times gradient for pairs."""

from __future__ import annotations

import captum.attr
from captum.log import log_usage
from torch import Tensor

from captum_face.attr.each_side import _EachSide

__all__ = ["PairInputXGradient"]


class PairInputXGradient(_EachSide):
    """Input times gradient (Shrikumar et al. 2016, arXiv 1605.01713).

    :class:`captum.attr.InputXGradient` on each side. The input is the image in [0, 1], so that black
    pixels get nothing.

    Args:
        forward_func: The :class:`~captum_face.PairSimilarity` to explain; its model must be
            differentiable.
    """

    @log_usage()
    def attribute(
        self, inputs: tuple[Tensor, Tensor], *, show_progress: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Signed maps of both images; what the inputs and the result are stands at
        :class:`~captum_face.PairAttribution`.

        Args:
            inputs: ``(image_a, image_b)``.
            show_progress: Show a progress bar over the images.

        Returns:
            ``(attr_a, attr_b)`` in units of score: what the pixel's brightness adds to the score of a
            model that were linear. Deterministic.

        Cost: for each image and partner one forward and one backward pass, and a forward pass for the
        partner.

        Raises:
            TypeError: ``forward_func`` is not a :class:`~captum_face.PairSimilarity`, or its model cannot
                be differentiated.
            ValueError: bad images.
        """
        return self._on_each_side(inputs, captum.attr.InputXGradient, {}, show_progress=show_progress)
