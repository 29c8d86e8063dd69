"""CorrRISE: correlation of random occlusions with the score."""

from __future__ import annotations

import torch
from captum.log import log_usage
from torch import Tensor

from captum_face._validation import (
    require_choice,
    require_generator,
    require_positive_int,
)
from captum_face.attr._base import PairAttribution
from captum_face.masks import random_patches, require_masks

__all__ = ["CorrRISE", "correlation_map"]

_CORRELATIONS = ("pearson", "spearman")


class CorrRISE(PairAttribution):
    r"""Correlation-based RISE (Lu et al., WACV 2024, arXiv 2305.08546).

    One image is hidden under random patches n times while the other stays intact, which gives scores
    :math:`s_i` for masks :math:`m_i`. The relevance of a pixel is the correlation of its being visible
    with the score, :math:`S(p) = \mathrm{corr}_i(m_i(p), s_i)`, and 0 where either does not vary.

    Args:
        forward_func: What gives the scores: a :class:`~captum_face.PairSimilarity`, or any callable
            ``(image_a, image_b) -> (N,)``. No gradients are needed.
    """

    @log_usage()
    def attribute(
        self,
        inputs: tuple[Tensor, Tensor],
        *,
        n_masks: int = 500,
        n_patches: int = 3,
        patch_size: int | tuple[int, int] | None = None,
        correlation: str = "pearson",
        masks: Tensor | None = None,
        baselines: float | Tensor | tuple[float | Tensor, float | Tensor] = 0,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Signed maps of both images; what the inputs and the result are stands at
        :class:`~captum_face.PairAttribution`.

        Args:
            inputs: ``(image_a, image_b)``.
            n_masks: Masks for each image. The standard error of a pixel's value is about
                ``1 / sqrt(n_masks)``.
            n_patches: Patches that each mask hides.
            patch_size: Side of a patch in pixels, or ``(height, width)``; None for 30/112 of the sides.
            correlation: ``"pearson"`` as published, or ``"spearman"``, which ranks first and is not led
                by a few extreme scores.
            masks: Masks of your own instead, ``(n, H, W)`` or ``(n, 1, H, W)``, 1 = kept, 0 = hidden;
                the options for random masks are then not used.
            baselines: What hidden pixels show: a number (0 is black), a tensor ``(1, C, H, W)`` or
                ``(N, C, H, W)``, or a tuple of two such for the two sides.
            seed: Makes the masks repeatable; without it and ``generator``, torch's global state is used.
            generator: The source of randomness itself, instead of ``seed``.
            perturbations_per_eval: Masked images in one forward pass; memory grows with it. None for what
                suits the device.
            show_progress: Show a progress bar over the masks.

        Returns:
            ``(attr_a, attr_b)`` in [-1, 1]. All images of a call are seen through the same masks, so that
            a batch gives what its items give with the same seed, and swapping A and B swaps the maps.

        Cost: for each image ``n_masks`` forward passes and one for its partner, no backward pass. With a
        :class:`~captum_face.PairSimilarity` an image that stands against N others is masked once; with
        another callable ``n_masks`` scores for each image and pair.

        Raises:
            TypeError: ``forward_func`` does not answer with numbers.
            ValueError: bad images, scores, masks or options.
        """
        require_choice(correlation, _CORRELATIONS, "correlation")
        generator = require_generator(seed, generator)
        with self._prepared(inputs) as images:
            size = (images[0].shape[2], images[0].shape[3])
            if masks is not None:
                masks = require_masks(masks, size)
            else:
                if require_positive_int(n_masks, "n_masks") < 2:
                    raise ValueError("expected n_masks of at least 2, got 1: one score does not correlate")
                masks = random_patches(
                    n_masks, size, n_patches=n_patches, patch_size=patch_size, generator=generator
                )
            return self._explain_by_masks(
                images,
                masks,
                lambda scores: correlation_map(scores, masks, correlation),
                baselines=baselines,
                perturbations_per_eval=perturbations_per_eval,
                show_progress=show_progress,
            )


def correlation_map(scores: Tensor, masks: Tensor, correlation: str = "pearson") -> Tensor:
    r"""Correlation of each pixel's visibility with the score, over masks.

    Args:
        scores: ``(K, n)``, a row for each partner, from :func:`~captum_face.masks.masked_scores`.
        masks: ``(n, H, W)`` bool or float, 1 = kept.
        correlation: ``"pearson"`` or ``"spearman"`` (Pearson of average ranks).

    Returns:
        ``(K, H, W)`` in [-1, 1], double precision, on the scores' device; 0 at pixels whose visibility
        does not vary, and everywhere if the scores do not (by more than a millionth of their size, which
        is rounding in single precision).
    """
    scores = scores.double()
    visible = masks.flatten(1).to(scores.device)
    size = scores.abs().amax(1, keepdim=True)
    varies = (scores.amax(1, keepdim=True) - scores.amin(1, keepdim=True)) > 1e-6 * size
    if correlation == "spearman":
        scores = _average_ranks(scores)
        if visible.dtype != torch.bool:
            # Ranks of two values are a linear function of them: hard masks correlate the same unranked.
            visible = _average_ranks(visible.T.double()).T
    n = scores.shape[1]
    centred = scores - scores.mean(1, keepdim=True)
    total, squares = (visible.new_zeros(visible.shape[1], dtype=torch.float64) for _ in range(2))
    products = visible.new_zeros((len(scores), visible.shape[1]), dtype=torch.float64)
    # In chunks: as doubles all masks at once would take eight times their memory.
    for part, share in zip(visible.split(64), centred.split(64, dim=1), strict=True):
        chunk = part.double()
        total += chunk.sum(0)
        squares += chunk.square().sum(0)
        products += share @ chunk
    # Relative to the squares: what is left of a constant soft mask is rounding.
    variation = squares - total.square() / n
    variation = variation.where(variation > 1e-12 * squares.clamp(min=1), torch.inf)
    spread = centred.norm(dim=1, keepdim=True).where(varies, torch.inf)
    return (products / (spread * variation.sqrt())).reshape(len(scores), *masks.shape[1:])


def _average_ranks(values: Tensor) -> Tensor:
    """Ranks along the last dimension, from 1; equal values share their average rank."""
    values = values.contiguous()
    ordered = values.sort(-1).values
    below = torch.searchsorted(ordered, values)
    upto = torch.searchsorted(ordered, values, right=True)
    return (below + upto + 1).double() / 2
