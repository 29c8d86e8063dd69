"""Gradient SHAP for pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import captum.attr
import torch
from torch import Tensor

from captum_face._validation import require_positive, require_positive_int
from captum_face.attr.base import on_sides
from captum_face.attr.each_side import _EachSide
from captum_face.attr.registry import method
from captum_face.engines.sides import Sides

__all__ = ["PairGradientShap"]


@method(
    "gradient_shap",
    display="Gradient SHAP",
    family="gradient",
    source="arXiv 1705.07874",
    passes="2 n_samples backward, 2 n_samples + 2 forward",
    needs="gradients",
)
class PairGradientShap(_EachSide):
    r"""Gradient SHAP (Lundberg and Lee, NeurIPS 2017, arXiv 1705.07874): expected gradients.

    :class:`captum.attr.GradientShap` on each side: the gradient at random points on lines from random
    baselines :math:`A'`, times :math:`A - A'`, on average. With images of other people as baselines it
    says what makes the face more like the partner than those are.
    """

    sampled_baselines = True

    @on_sides
    def attribute(
        self,
        sides: Sides,
        *,
        baselines: str | Path | Tensor | tuple[Any, Any] | None = None,
        n_samples: int = 20,
        stdevs: float = 0.0,
        seed: int | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, ...]:
        """Signed maps of both images, as :class:`~captum_face.PairAttribution` says.

        Args:
            baselines: Images ``(M, C, H, W)`` to draw from, best those of other people aligned alike, or
                a folder of them, or a tuple of two such for the two sides; ``"black"``, ``"blurred"`` or
                ``"partner"`` for that one. None for ``"blurred"``, which knows no other faces and is a
                stopgap.
            n_samples: Random points, all in one pass: memory grows with it.
            stdevs: Standard deviation of noise added to the image at each point.
            seed: Makes the maps repeatable; without it and ``generator``, the global states of torch and
                numpy are used.

        Returns:
            ``(attr_a, attr_b)`` in units of score. Each sums, on average over seeds, to the score less
            the mean score of the baselines against the intact partner.

        Cost: for each image and partner ``n_samples`` forward and backward passes, and a forward pass for
        the partner.
        """
        require_positive_int(n_samples, "n_samples")
        require_positive(stdevs, "stdevs", or_zero=True)
        options = {
            "baselines": "blurred" if baselines is None else baselines,
            "n_samples": n_samples,
            "stdevs": float(stdevs),
        }
        return self._on_each_side(sides, captum.attr.GradientShap, options, seed=seed, generator=generator)
