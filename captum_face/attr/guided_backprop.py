"""Guided backpropagation for pairs: only positive gradients go back through rectifiers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import captum.attr
import torch
from torch import Tensor, nn

from captum_face.attr.base import on_sides
from captum_face.attr.deep_lift import RECTIFIERS
from captum_face.attr.each_side import _EachSide
from captum_face.attr.registry import method
from captum_face.engines.one_image import require_differentiable
from captum_face.engines.sides import Sides

__all__ = ["PairGuidedBackprop"]


@method(
    "guided_backprop",
    display="Guided backpropagation",
    family="gradient",
    source="arXiv 1412.6806",
    passes="2 backward, 4 forward",
    needs="gradients",
)
class PairGuidedBackprop(_EachSide):
    """Guided backpropagation (Springenberg et al., ICLR workshop 2015, arXiv 1412.6806).

    The gradient of the score, but at each rectifier only its positive part goes on towards the image.
    :class:`captum.attr.GuidedBackprop` does that at ``nn.ReLU`` alone; here ReLU6, PReLU, LeakyReLU and
    RReLU count as well, each with its own slope, which is our reading of the paper. On a network of
    ``nn.ReLU`` the two agree.
    """

    @on_sides
    def attribute(self, sides: Sides) -> tuple[Tensor, ...]:
        """Maps of both images, as :class:`~captum_face.PairAttribution` says.

        Returns:
            ``(attr_a, attr_b)`` without a unit. Signs are those of the first layer's weights: positive
            where a brighter pixel would feed what raises the score. Deterministic.

        Cost: for each image and partner one forward and one backward pass, and a forward pass for the
        partner.

        Raises:
            TypeError: ``forward_func`` is not a :class:`~captum_face.PairSimilarity`, or its model cannot
                be differentiated.
            ValueError: bad images, or a model without rectifier modules, where nothing would be guided.
        """
        if not any(isinstance(module, RECTIFIERS) for module in sides.pair.modules()):
            require_differentiable(sides.pair, sides.images[0][:1])  # otherwise saliency would not do either
            names = ", ".join(kind.__name__ for kind in RECTIFIERS)
            raise ValueError(
                f"expected a model with rectifiers as modules ({names}), found none, so that guided "
                "backpropagation would give plain gradients; give PairSimilarity the nn.Module itself, if a "
                "function around it hides them, or use saliency instead"
            )
        return self._on_each_side(sides, lambda score: _Guided(score, sides.pair), {})


class _Guided(captum.attr.Saliency):
    """Gradients of a score while the rectifiers of ``model`` pass positive gradients alone."""

    def __init__(self, forward_func: Callable[[Tensor], Tensor], model: nn.Module) -> None:
        super().__init__(forward_func)
        self.model = model

    def attribute(self, inputs: Tensor) -> Tensor:
        # At the input of the rectifier, on this path alone: a shortcut around it stays as it is.
        handles = [
            module.register_forward_pre_hook(lambda _, args: (_Positive.apply(args[0]), *args[1:]))
            for module in self.model.modules()
            if isinstance(module, RECTIFIERS)
        ]
        try:
            return super().attribute.__wrapped__(self, inputs, abs=False)
        finally:
            for handle in handles:
                handle.remove()


class _Positive(torch.autograd.Function):
    """The identity, through which only positive gradients come back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.set_materialize_grads(False)  # a layer without gradients stays one
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None) -> Tensor | None:
        return None if gradient is None else gradient.clamp(min=0)
