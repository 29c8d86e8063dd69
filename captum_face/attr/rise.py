"""RISE for pairs: the mean score of the masks that show a pixel."""

from __future__ import annotations

import torch
from torch import Tensor

from captum_face._validation import Baselines, require_generator, require_positive_int
from captum_face.attr.base import PairAttribution, on_sides
from captum_face.attr.registry import method
from captum_face.engines.masks import random_grids, require_masks
from captum_face.engines.sides import Sides
from captum_face.pair.passes import BatchSize

__all__ = ["RISE", "mean_score_map"]


@method("rise", display="RISE", family="occlusion", source="arXiv 1806.07421", passes="2 n_masks + 2 forward")
class RISE(PairAttribution):
    r"""Randomised input sampling (Petsiuk, Das and Saenko, BMVC 2018, arXiv 1806.07421) for pairs.

    One image is seen through n soft random masks :math:`m_i` while the other stays intact, which gives
    scores :math:`s_i`. The relevance of a pixel is the mean score weighted with its visibility, less the
    mean score of all masks:

    .. math:: S_A(p) = \frac{\sum_i m_i(p) \, s_i}{\sum_i m_i(p)} - \frac{1}{n} \sum_i s_i

    The paper divides by the expected visibility instead of the drawn one and subtracts nothing, so that its
    maps are never negative; ``centered=False`` does not subtract either.
    """

    @on_sides
    def attribute(
        self,
        sides: Sides,
        *,
        n_masks: int = 1000,
        grid: int = 7,
        probability: float = 0.5,
        centered: bool = True,
        masks: Tensor | None = None,
        baselines: Baselines = 0,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        perturbations_per_eval: BatchSize = None,
    ) -> tuple[Tensor, ...]:
        """Signed maps of both images, as :class:`~captum_face.PairAttribution` says.

        Args:
            n_masks: Masks for each image (the paper draws 4000 to 8000 on larger images).
            grid: Cells of a mask along each side of the image.
            probability: How likely a cell is visible.
            centered: Subtract the mean score, so that values have a sign.
            masks: Masks of your own instead, ``(n, H, W)`` or ``(n, 1, H, W)``, 1 = kept, 0 = hidden; the
                three options that shape random masks are then not used.

        Returns:
            ``(attr_a, attr_b)`` in units of score: how much the score lies above its mean where the pixel
            is visible. All images of a call are seen through the same masks.

        Cost: for each image ``n_masks`` forward passes and one for its partner, no backward pass. An image
        that stands against N others is masked once with a :class:`~captum_face.PairSimilarity`.

        Raises:
            TypeError: ``forward_func`` does not answer with numbers.
            ValueError: bad images, scores, masks or options.
        """
        generator = require_generator(seed, generator)
        if masks is not None:
            masks = require_masks(masks, sides.size)
        else:
            require_positive_int(n_masks, "n_masks")
            masks = random_grids(n_masks, sides.size, grid=grid, probability=probability, generator=generator)
        return sides.explain_by_masks(
            masks, lambda scores: mean_score_map(scores, masks, centered=centered), baselines=baselines
        )


def mean_score_map(scores: Tensor, masks: Tensor, *, centered: bool = True) -> Tensor:
    """Mean score of each pixel, weighted with its visibility.

    Args:
        scores: ``(K, n)``, a row for each partner, from :func:`~captum_face.engines.masks.masked_scores`.
        masks: ``(n, H, W)`` bool or float, 1 = kept.
        centered: Subtract each row's mean score.

    Returns:
        ``(K, H, W)``, double precision, on the scores' device; 0 at pixels that no mask shows.
    """
    scores = scores.double()
    if centered:
        scores = scores - scores.mean(1, keepdim=True)
    visible = masks.flatten(1).to(scores.device)
    # As floats in chunks: all masks at once as doubles would take twice to eight times their memory.
    products = sum(
        share @ part.double() for share, part in zip(scores.split(64, 1), visible.split(64), strict=True)
    )
    total = visible.sum(0, dtype=torch.float64)
    return (products / total.where(total > 0, torch.inf)).reshape(len(scores), *masks.shape[1:])
