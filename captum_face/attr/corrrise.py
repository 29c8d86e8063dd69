"""CorrRISE: correlation of random occlusions with the score."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from captum_face._validation import (
    Baselines,
    require_choice,
    require_generator,
    require_positive,
    require_positive_int,
)
from captum_face.attr.base import PairAttribution, on_sides
from captum_face.attr.registry import method
from captum_face.engines.masks import SAMPLINGS, random_patches, require_masks
from captum_face.engines.sides import Side, Sides
from captum_face.maps.ranks import average_ranks
from captum_face.pair.passes import BatchSize

__all__ = ["CorrRISE", "correlation_map", "relative_error"]

_CORRELATIONS = ("pearson", "spearman")
# Masks before the error is looked at, and at least between one look and the next.
_FIRST_LOOK, _STEP = 100, 50


@method(
    "corrrise",
    display="CorrRISE",
    family="occlusion",
    source="arXiv 2305.08546",
    passes="2 n_masks + 2 forward",
)
class CorrRISE(PairAttribution):
    r"""Correlation-based RISE (Lu et al., WACV 2024, arXiv 2305.08546).

    One image is hidden under random patches n times while the other stays intact, which gives scores
    :math:`s_i` for masks :math:`m_i`. The relevance of a pixel is the correlation of its being visible
    with the score, :math:`S(p) = \mathrm{corr}_i(m_i(p), s_i)`, and 0 where either does not vary.
    """

    @on_sides
    def attribute(
        self,
        sides: Sides,
        *,
        n_masks: int = 500,
        n_patches: int = 3,
        patch_size: int | tuple[int, int] | None = None,
        sampling: str = "plain",
        correlation: str = "pearson",
        masks: Tensor | None = None,
        baselines: Baselines = 0,
        target_error: float | None = None,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        perturbations_per_eval: BatchSize = None,
    ) -> tuple[Tensor, ...]:
        """Signed maps of both images, as :class:`~captum_face.PairAttribution` says.

        Args:
            n_masks: Masks for each image. The standard error of a pixel's value is about
                ``1 / sqrt(n_masks)``. With ``target_error`` the most that are used.
            n_patches: Patches that each mask hides.
            patch_size: Side of a patch in pixels, or ``(height, width)``; None for 30/112 of the sides.
            sampling: ``"plain"`` as published, or ``"stratified"``: masks that fill the image evenly, each as
                random as before. In our measurements half as many of them give the same error.
            correlation: ``"pearson"`` as published, or ``"spearman"``, which ranks first and is not led
                by a few extreme scores.
            masks: Masks of your own instead, ``(n, H, W)`` or ``(n, 1, H, W)``, 1 = kept, 0 = hidden;
                the options for random masks are then not used.
            target_error: Stop once the standard error of a pixel's value, as a share of the map's own size
                (root mean square over pixels of each), is at most this: at 0.3 the map's cosine with that of
                endlessly many masks is about ``sqrt(1 - 0.3^2) = 0.95``. None for all masks. See
                :func:`~captum_face.attr.corrrise.relative_error`. Masks of your own are taken in their order.

        Returns:
            ``(attr_a, attr_b)`` in [-1, 1]. All images of a call are seen through the same masks, so that
            a batch gives what its items give with the same seed, and swapping A and B swaps the maps.

            :meth:`~captum_face.PairAttribution.attribute_detailed` gives ``details["n_masks"]`` ``(N, 2)``
            int64, the masks that each pair's maps come from.

        Cost: for each image ``n_masks`` forward passes and one for its partner, no backward pass. With a
        :class:`~captum_face.PairSimilarity` an image that stands against N others is masked once; with
        another callable ``n_masks`` scores for each image and pair. With ``target_error`` an image is masked
        until the last of its pairs has enough.

        Raises:
            TypeError: ``forward_func`` does not answer with numbers.
            ValueError: bad images, scores, masks or options.
        """
        require_choice(correlation, _CORRELATIONS, "correlation")
        require_choice(sampling, SAMPLINGS, "sampling")
        if target_error is not None:
            require_positive(target_error, "target_error")
        generator = require_generator(seed, generator)
        if masks is not None:
            masks = require_masks(masks, sides.size)
        else:
            if require_positive_int(n_masks, "n_masks") < 2:
                raise ValueError("expected n_masks of at least 2, got 1: one score does not correlate")
            masks = random_patches(
                n_masks,
                sides.size,
                n_patches=n_patches,
                patch_size=patch_size,
                sampling=sampling,
                generator=generator,
            )
        sides, fills = sides.with_baselines(baselines)

        def one(side: Side) -> Tensor:
            score = side.mask_scorer(side.own_row(fills[side.swapped]))
            maps, counts = _maps_until_sure(score, masks, correlation, target_error)
            side.done(len(masks) - int(counts.max()))
            side.note("n_masks", counts)
            return maps

        return sides.explain(one, len(masks))


def _maps_until_sure(
    score: Callable[[Tensor], Tensor], masks: Tensor, correlation: str, target_error: float | None
) -> tuple[Tensor, Tensor]:
    """Each partner's map ``(K, H, W)`` and how many masks it comes from ``(K,)``.

    A partner is looked at where its own scores say, so that it gets the map that it would get alone.
    """
    if target_error is None:
        maps = correlation_map(score(masks), masks, correlation)
        return maps, torch.full((len(maps),), len(masks))
    n = min(_FIRST_LOOK, len(masks))
    scores = score(masks[:n])
    maps = torch.zeros(len(scores), *masks.shape[1:], dtype=torch.float64)
    counts = torch.full((len(scores),), n)
    waiting = torch.ones(len(scores), dtype=torch.bool)
    while waiting.any():
        upto = int(counts[waiting].min())
        if upto > n:
            scores = torch.cat([scores, score(masks[n:upto])], 1)
            n = upto
        looked = waiting & (counts == n)
        maps[looked] = correlation_map(scores[looked], masks[:n], correlation)
        errors = relative_error(maps[looked], n)
        # Noise falls with their number and the signal stays; a first guess at it shall not lead too far.
        noise = errors.square()
        needed = n * (noise / (1 - noise).clamp(min=0)) * (1 - target_error**2) / target_error**2
        steps = ((needed.clamp(max=2 * n) - n) / _STEP).ceil().clamp(min=1)
        done = (errors <= target_error) | (n == len(masks))
        counts[looked] = torch.where(done, n, (n + _STEP * steps).clamp(max=len(masks))).long()
        waiting[looked] = ~done
    return maps, counts


def relative_error(maps: Tensor, n: int) -> Tensor:
    r"""The standard error of correlation maps relative to their size, ``(K,)``.

    .. math:: \sqrt{\frac{\operatorname{mean}_p (1 - S(p)^2)^2 / (n - 1)}{\operatorname{mean}_p S(p)^2}}

    The standard error alone says little about a map: for the correlations of a few hundredths to tenths that
    masks have, it is :math:`1 / \sqrt{n}` whatever the pair. Its size is what pairs differ in.

    Args:
        maps: ``(K, H, W)`` from :func:`correlation_map`.
        n: The masks they come from.

    Returns:
        ``(K,)``, infinite for a map that is 0 everywhere. About 1 where there is nothing but noise.
    """
    squares = maps.flatten(1).square()
    return ((1 - squares).square().mean(1) / ((n - 1) * squares.mean(1))).sqrt()


def correlation_map(scores: Tensor, masks: Tensor, correlation: str = "pearson") -> Tensor:
    r"""Correlation of each pixel's visibility with the score, over masks.

    Args:
        scores: ``(K, n)``, a row for each partner, from :func:`~captum_face.engines.masks.masked_scores`.
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
        # Equal images need not score alike to the last bit of double precision, but are ties.
        scores = average_ranks((scores / (1e-12 * size).where(size > 0, 1)).round())
        if visible.dtype != torch.bool:
            # Ranks of two values are a linear function of them: hard masks correlate the same unranked.
            visible = average_ranks(visible.T.double()).T
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
