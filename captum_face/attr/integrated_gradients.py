"""Integrated gradients for pairs."""

from __future__ import annotations

from typing import Any

import captum.attr
from torch import Tensor

from captum_face._validation import require_choice, require_positive_int
from captum_face.attr.base import on_sides
from captum_face.attr.each_side import _EachSide
from captum_face.attr.registry import method
from captum_face.engines.sides import Sides
from captum_face.pair.passes import BatchSize, is_out_of_memory

__all__ = ["PairIntegratedGradients"]

#: How points on the line lie and weigh, as :class:`captum.attr.IntegratedGradients` calls it.
RULES = ("riemann_right", "riemann_left", "riemann_middle", "riemann_trapezoid", "gausslegendre")


@method(
    "integrated_gradients",
    family="gradient",
    source="arXiv 1703.01365",
    passes="2 n_steps backward, 2 n_steps + 2 forward",
    needs="gradients",
)
class PairIntegratedGradients(_EachSide):
    r"""Integrated gradients (Sundararajan, Taly and Yan, ICML 2017, arXiv 1703.01365).

    :class:`captum.attr.IntegratedGradients` on each side, along the straight line from a baseline
    :math:`A'` to the image:

    .. math:: S_A = (A - A') \int_0^1 \frac{\partial \, s(A' + t (A - A'), B)}{\partial A} \, dt,
        \qquad \sum S_A = s(A, B) - s(A', B)
    """

    #: Baseline where the caller names none.
    default_baselines = "black"

    @on_sides
    def attribute(
        self,
        sides: Sides,
        *,
        baselines: str | float | Tensor | tuple[Any, Any] | None = None,
        n_steps: int = 50,
        method: str = "gausslegendre",
        internal_batch_size: BatchSize = None,
    ) -> tuple[Tensor, ...]:
        """Signed maps of both images, as :class:`~captum_face.PairAttribution` says.

        Args:
            baselines: Where the line begins: ``"black"``, ``"blurred"`` (a Gaussian of a tenth of the
                shorter side), ``"partner"`` (the other image of the pair), a number, a tensor of 1 or N
                images, or a tuple of two of these for the two sides; None for the class's own.
            n_steps: Points on the line.
            method: How the points lie and weigh, see :class:`captum.attr.IntegratedGradients`.
            internal_batch_size: Points in one pass; memory grows with it. None for what suits the device,
                ``"auto"`` for what is measured to be cheapest. Half as many from where memory runs out.

        Returns:
            ``(attr_a, attr_b)`` in units of score. Each sums to the score less the score that the
            baseline has against the intact partner, up to the integration's error. Deterministic.

        Cost: for each image and partner ``n_steps`` forward and backward passes, and a forward pass for
        the partner.
        """
        require_positive_int(n_steps, "n_steps")
        if n_steps == 1 and method == "riemann_trapezoid":
            raise ValueError("expected n_steps of at least 2 for method='riemann_trapezoid', got 1")
        options = {
            "baselines": self.default_baselines if baselines is None else baselines,
            "n_steps": n_steps,
            "method": require_choice(method, RULES, "method of integration"),
        }
        size = sides.images_per_pass(backward=True)
        while True:
            try:
                return self._on_each_side(
                    sides, captum.attr.IntegratedGradients, options | {"internal_batch_size": size}
                )
            except (RuntimeError, MemoryError) as error:
                if size == 1 or not is_out_of_memory(error):
                    raise
            size //= 2
            sides.notes.clear()  # of the images that were done
