"""xSSAB: backpropagation of the similarity score's arguments."""

from __future__ import annotations

import torch
from torch import Tensor

from captum_face.attr.base import PairAttribution, on_sides
from captum_face.attr.registry import method
from captum_face.engines.sides import Side, Sides, gradients_enabled, image_gradient

__all__ = ["XSSAB"]


@method(
    "xssab",
    display="xSSAB",
    family="gradient",
    source="arXiv 2304.13409",
    passes="4 backward, 4 forward",
    needs="gradients",
)
class XSSAB(PairAttribution):
    r"""Similarity score argument backpropagation (Huber et al., WACV 2024, arXiv 2304.13409).

    The score is split into the channels that bring at least their share of the threshold and those that
    don't, :math:`P = \{k : f_{A,k} f_{B,k} \ge \theta / D\}` and its complement :math:`Q`. Each part is
    propagated back by itself, and the map is the difference of the two gradients' sizes:

    .. math:: S_A = \operatorname{mean}_c \left| \frac{\partial}{\partial A} \sum_{k \in P}
        f_{A,k} f_{B,k} \right| - \operatorname{mean}_c \left| \frac{\partial}{\partial A}
        \sum_{k \in Q} f_{A,k} f_{B,k} \right|
    """

    @on_sides
    def attribute(self, sides: Sides, *, threshold: float | None = None) -> tuple[Tensor, ...]:
        """Signed maps of both images, as :class:`~captum_face.PairAttribution` says.

        Returns:
            ``(attr_a, attr_b)`` in units of score per unit of brightness. Positive where the channels
            that agree are the more sensitive ones. Deterministic.

        Cost: for each image 2 backward passes for each of its partners and 2 forward passes.

        Raises:
            TypeError: ``forward_func`` is not a :class:`~captum_face.PairSimilarity`, or its model cannot
                be differentiated.
            ValueError: bad images or embeddings, a threshold that the score cannot reach.
        """
        shares = sides.threshold_share(threshold)

        def one(side: Side) -> Tensor:
            share = shares[side.rows] if len(shares) > 1 else shares
            with gradients_enabled():
                image = side.image.clone().requires_grad_()
                contributions = side.contributions(side.pair.embed(image))
                agree = contributions.detach() >= share
                parts = torch.stack([contributions * agree, contributions * ~agree]).sum(-1)
                sizes = [
                    image_gradient(part, image, retain_graph=True).abs().mean(1) for part in parts.flatten()
                ]
            side.done()
            positive, negative = torch.cat(sizes).chunk(2)
            return positive - negative

        return sides.explain(one)
