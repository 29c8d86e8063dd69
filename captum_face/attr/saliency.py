"""Saliency for pairs: the gradient of the score."""

from __future__ import annotations

import captum.attr
from torch import Tensor

from captum_face.attr.base import on_sides
from captum_face.attr.each_side import _EachSide
from captum_face.attr.registry import method
from captum_face.engines.sides import Sides

__all__ = ["PairSaliency"]


@method(
    "saliency", family="gradient", source="arXiv 1312.6034", passes="2 backward, 4 forward", needs="gradients"
)
class PairSaliency(_EachSide):
    """Gradient of the score (Simonyan, Vedaldi and Zisserman 2013, arXiv 1312.6034).

    :class:`captum.attr.Saliency` on each side.
    """

    @on_sides
    def attribute(self, sides: Sides, *, abs: bool = False) -> tuple[Tensor, ...]:
        """Maps of both images, as :class:`~captum_face.PairAttribution` says.

        Args:
            abs: Take absolute values as published, which leaves no evidence against a match.

        Returns:
            ``(attr_a, attr_b)`` in score per brightness. Positive where making the pixel brighter raises
            the score: a direction of change, not evidence of what is there. Deterministic.

        Cost: for each image and partner one forward and one backward pass, and a forward pass for the
        partner.
        """
        return self._on_each_side(sides, captum.attr.Saliency, {"abs": abs})
