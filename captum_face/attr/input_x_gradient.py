"""Input times gradient for pairs."""

from __future__ import annotations

import captum.attr
from torch import Tensor

from captum_face.attr.base import on_sides
from captum_face.attr.each_side import _EachSide
from captum_face.attr.registry import method
from captum_face.engines.sides import Sides

__all__ = ["PairInputXGradient"]


@method(
    "input_x_gradient",
    display="Input × gradient",
    family="gradient",
    source="arXiv 1605.01713",
    passes="2 backward, 4 forward",
    needs="gradients",
)
class PairInputXGradient(_EachSide):
    """Input times gradient (Shrikumar et al. 2016, arXiv 1605.01713).

    :class:`captum.attr.InputXGradient` on each side. The input is the image in [0, 1], so that black
    pixels get nothing.
    """

    @on_sides
    def attribute(self, sides: Sides) -> tuple[Tensor, ...]:
        """Signed maps of both images, as :class:`~captum_face.PairAttribution` says.

        Returns:
            ``(attr_a, attr_b)`` in units of score: what the pixel's brightness adds to the score of a
            model that were linear. Deterministic.

        Cost: for each image and partner one forward and one backward pass, and a forward pass for the
        partner.
        """
        return self._on_each_side(sides, captum.attr.InputXGradient, {})
