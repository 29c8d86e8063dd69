"""Captum's gradient methods for pairs."""

from __future__ import annotations

from typing import Any

import captum.attr
import torch
from captum.attr._utils.approximation_methods import SUPPORTED_METHODS
from captum.log import log_usage
from torch import Tensor

from captum_face._validation import require_choice, require_pair, require_positive, require_positive_int
from captum_face.attr.each_side import _EachSide
from captum_face.pair.passes import default_batch_size, is_out_of_memory

__all__ = [
    "PairBlurredIntegratedGradients",
    "PairGradientShap",
    "PairInputXGradient",
    "PairIntegratedGradients",
    "PairPartnerIntegratedGradients",
    "PairSaliency",
]


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


class PairIntegratedGradients(_EachSide):
    r"""Integrated gradients (Sundararajan, Taly and Yan, ICML 2017, arXiv 1703.01365).

    :class:`captum.attr.IntegratedGradients` on each side, along the straight line from a baseline
    :math:`A'` to the image:

    .. math:: S_A = (A - A') \int_0^1 \frac{\partial \, s(A' + t (A - A'), B)}{\partial A} \, dt,
        \qquad \sum S_A = s(A, B) - s(A', B)

    Args:
        forward_func: The :class:`~captum_face.PairSimilarity` to explain; its model must be
            differentiable.
    """

    #: Baseline where the caller names none.
    default_baselines = "black"

    @log_usage()
    def attribute(
        self,
        inputs: tuple[Tensor, Tensor],
        *,
        baselines: str | float | Tensor | tuple[Any, Any] | None = None,
        n_steps: int = 50,
        method: str = "gausslegendre",
        internal_batch_size: int | None = None,
        show_progress: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Signed maps of both images; what the inputs and the result are stands at
        :class:`~captum_face.PairAttribution`.

        Args:
            inputs: ``(image_a, image_b)``.
            baselines: Where the line begins: ``"black"``, ``"blurred"`` (a Gaussian of a tenth of the
                shorter side), ``"partner"`` (the other image of the pair), a number, a tensor of 1 or N
                images, or a tuple of two of these for the two sides; None for the class's own.
            n_steps: Points on the line.
            method: How the points lie and weigh, see :class:`captum.attr.IntegratedGradients`.
            internal_batch_size: Points in one pass; memory grows with it. None for what suits the
                device.
            show_progress: Show a progress bar over the images.

        Returns:
            ``(attr_a, attr_b)`` in units of score. Each sums to the score less the score that the
            baseline has against the intact partner, up to the integration's error. Deterministic.

        Cost: for each image and partner ``n_steps`` forward and backward passes, and a forward pass for
        the partner.

        Raises:
            TypeError: ``forward_func`` is not a :class:`~captum_face.PairSimilarity`, or its model cannot
                be differentiated.
            ValueError: bad images or options.
        """
        require_positive_int(n_steps, "n_steps")
        if n_steps == 1 and method == "riemann_trapezoid":
            raise ValueError("expected n_steps of at least 2 for method='riemann_trapezoid', got 1")
        if internal_batch_size is None:
            image_a, _ = require_pair(inputs)
            precision = getattr(self.forward_func, "precision", "float32")
            internal_batch_size = default_batch_size(image_a.device, precision)
        require_positive_int(internal_batch_size, "internal_batch_size")
        options = {
            "baselines": self.default_baselines if baselines is None else baselines,
            "n_steps": n_steps,
            "method": require_choice(method, SUPPORTED_METHODS, "method of integration"),
        }
        while True:
            sized = options | {"internal_batch_size": internal_batch_size}
            try:
                return self._on_each_side(
                    inputs, captum.attr.IntegratedGradients, sized, show_progress=show_progress
                )
            except (RuntimeError, MemoryError) as error:
                if internal_batch_size == 1 or not is_out_of_memory(error):
                    raise
            internal_batch_size //= 2


class PairBlurredIntegratedGradients(PairIntegratedGradients):
    """:class:`PairIntegratedGradients` from a blurred copy of the image.

    Args:
        forward_func: The :class:`~captum_face.PairSimilarity` to explain; its model must be
            differentiable.
    """

    default_baselines = "blurred"


class PairPartnerIntegratedGradients(PairIntegratedGradients):
    """:class:`PairIntegratedGradients` from the other image of the pair: why is this no perfect match?

    The map sums to the score less the score of the partner against itself, which under the cosine is
    1: nearly all of it is evidence against. The images must be aligned to each other.

    Args:
        forward_func: The :class:`~captum_face.PairSimilarity` to explain; its model must be
            differentiable.
    """

    default_baselines = "partner"


class PairGradientShap(_EachSide):
    r"""Gradient SHAP (Lundberg and Lee, NeurIPS 2017, arXiv 1705.07874): expected gradients.

    :class:`captum.attr.GradientShap` on each side: the gradient at random points on lines from random
    baselines :math:`A'`, times :math:`A - A'`, on average. With images of other people as baselines it
    says what makes the face more like the partner than those are.

    Args:
        forward_func: The :class:`~captum_face.PairSimilarity` to explain; its model must be
            differentiable.
    """

    sampled_baselines = True

    @log_usage()
    def attribute(
        self,
        inputs: tuple[Tensor, Tensor],
        *,
        baselines: str | Tensor | tuple[Any, Any] | None = None,
        n_samples: int = 20,
        stdevs: float = 0.0,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        show_progress: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Signed maps of both images; what the inputs and the result are stands at
        :class:`~captum_face.PairAttribution`.

        Args:
            inputs: ``(image_a, image_b)``.
            baselines: Images ``(M, C, H, W)`` to draw from, best those of other people aligned alike, or
                a tuple of two such for the two sides; ``"black"``, ``"blurred"`` or ``"partner"`` for
                that one. None for ``"blurred"``, which knows no other faces and is a stopgap.
            n_samples: Random points, all in one pass: memory grows with it.
            stdevs: Standard deviation of noise added to the image at each point.
            seed: Makes the maps repeatable; without it and ``generator``, the global states of torch and
                numpy are used.
            generator: The source of randomness itself, instead of ``seed``.
            show_progress: Show a progress bar over the images.

        Returns:
            ``(attr_a, attr_b)`` in units of score. Each sums, on average over seeds, to the score less
            the mean score of the baselines against the intact partner.

        Cost: for each image and partner ``n_samples`` forward and backward passes, and a forward pass for
        the partner.

        Raises:
            TypeError: ``forward_func`` is not a :class:`~captum_face.PairSimilarity`, or its model cannot
                be differentiated.
            ValueError: bad images or options.
        """
        require_positive_int(n_samples, "n_samples")
        require_positive(stdevs, "stdevs", or_zero=True)
        options = {
            "baselines": "blurred" if baselines is None else baselines,
            "n_samples": n_samples,
            "stdevs": float(stdevs),
        }
        return self._on_each_side(
            inputs,
            captum.attr.GradientShap,
            options,
            seed=seed,
            generator=generator,
            show_progress=show_progress,
        )
