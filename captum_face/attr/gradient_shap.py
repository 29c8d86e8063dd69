"""Gradient SHAP for pairs."""

from __future__ import annotations

from typing import Any

import captum.attr
import torch
from captum.log import log_usage
from torch import Tensor

from captum_face._validation import require_positive, require_positive_int
from captum_face.attr.each_side import _EachSide

__all__ = ["PairGradientShap"]


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
