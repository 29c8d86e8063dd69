"""Kernel SHAP for pairs, over cells of the image."""

from __future__ import annotations

import torch
from torch import Tensor

from captum_face._validation import Baselines, require_generator, require_positive_int
from captum_face.attr.base import PairAttribution, on_sides
from captum_face.attr.registry import method
from captum_face.engines.masks import feature_masks
from captum_face.engines.sides import Sides
from captum_face.pair.passes import BatchSize

__all__ = ["PairKernelShap"]


@method(
    "kernel_shap",
    display="Kernel SHAP",
    family="occlusion",
    source="arXiv 1705.07874",
    passes="2 n_samples + 6 forward",
)
class PairKernelShap(PairAttribution):
    r"""Kernel SHAP over cells of the image (Lundberg and Lee, NeurIPS 2017, arXiv 1705.07874).

    The Shapley value of each cell in the game whose payoff is the score of the image with some cells
    visible: coalitions are drawn with the Shapley kernel's probabilities, and the values are the least
    squares fit of a sum over visible cells to the scores, held to

    .. math:: \sum_i \phi_i = s(A, B) - s(\text{baseline}, B)

    As in :class:`captum.attr.KernelShap`, with that sum exact instead of heavily weighted, and with
    coalitions drawn in pairs that complement each other (Covert and Lee 2021, arXiv 2012.01536), which
    makes the values less noisy.
    """

    @on_sides
    def attribute(
        self,
        sides: Sides,
        *,
        n_samples: int = 500,
        feature_mask: Tensor | None = None,
        baselines: Baselines = 0,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        perturbations_per_eval: BatchSize = None,
    ) -> tuple[Tensor, ...]:
        """Signed maps of both images, as :class:`~captum_face.PairAttribution` says.

        Args:
            n_samples: Coalitions of cells; at least twice their number is sound.
            feature_mask: Integers ``(H, W)``: pixels of one number are a cell. None for a grid of 7 by 7.

        Returns:
            ``(attr_a, attr_b)`` in units of score, a cell's Shapley value at each of its pixels. Positive
            where seeing the cell raises the score. All images of a call share their coalitions.

        Cost: for each image ``n_samples + 2`` forward passes and one for its partner. An image that stands
        against N others is masked once with a :class:`~captum_face.PairSimilarity`.

        Raises:
            TypeError: ``forward_func`` does not answer with numbers, or ``feature_mask`` is no tensor of
                integers.
            ValueError: bad images, scores or options, fewer than two cells.
        """
        generator = require_generator(seed, generator)
        require_positive_int(n_samples, "n_samples")
        features = feature_masks(feature_mask, sides.size, default=None).double()
        if len(features) < 2:
            raise ValueError("expected a feature_mask of at least two cells, got one")
        coalitions = _coalitions(n_samples, len(features), generator).cpu()
        masks = torch.einsum("nf,fhw->nhw", coalitions, features) > 0.5

        def shapley(scores: Tensor) -> Tensor:
            values = _shapley_fit(coalitions[2:], scores[:, 2:], scores[:, 0], scores[:, 1])
            return torch.einsum("kf,fhw->khw", values, features)

        return sides.explain_by_masks(masks, shapley, baselines=baselines)


def _coalitions(n_samples: int, cells: int, generator: torch.Generator | None) -> Tensor:
    """Visible cells ``(2 + n, F)`` as 0 and 1: all, none, then draws from the Shapley kernel in pairs."""
    device = generator.device if generator is not None else None
    sizes = torch.arange(1, cells, device=device, dtype=torch.float64)
    half = -(-n_samples // 2)
    drawn = torch.multinomial(1 / (sizes * (cells - sizes)), half, True, generator=generator) + 1
    ranks = torch.rand(half, cells, generator=generator, device=device, dtype=torch.float32)
    ranks = ranks.argsort(1).argsort(1)
    visible = (ranks < drawn[:, None]).double()
    ends = torch.tensor([[1.0], [0.0]], dtype=torch.float64, device=device).expand(2, cells)
    return torch.cat([ends, visible, 1 - visible])[: 2 + n_samples]


def _shapley_fit(coalitions: Tensor, scores: Tensor, full: Tensor, empty: Tensor) -> Tensor:
    """Least squares of ``scores - empty`` on visible cells, with the sum held to ``full - empty``.

    Args:
        coalitions: ``(n, F)`` of 0 and 1.
        scores: ``(K, n)``.
        full: ``(K,)`` with all cells visible.
        empty: ``(K,)`` with none.

    Returns:
        ``(K, F)``. Where the coalitions leave cells undetermined, the smallest values that fit.
    """
    cells = coalitions.shape[1]
    gap = (full - empty)[:, None]
    # Equal shares of the gap, plus a part that sums to zero: only a coalition's centred row acts on that,
    # and the pseudoinverse of centred rows gives nothing else.
    even = gap / cells
    visible = coalitions - coalitions.mean(1, keepdim=True)
    residual = scores - empty[:, None] - coalitions.sum(1) * even
    return even + residual @ torch.linalg.pinv(visible).T
