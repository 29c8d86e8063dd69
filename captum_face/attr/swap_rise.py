"""Swap RISE: patches of one image swapped with other faces, and what that does to the score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from captum_face._validation import require_generator, require_positive_int
from captum_face.attr._morphing import MorphComponents, MorphingAttribution, require_position
from captum_face.attr.base import on_sides
from captum_face.attr.corrrise import correlation_map
from captum_face.attr.registry import method
from captum_face.engines.cohort import cycle_members
from captum_face.engines.masks import random_patches
from captum_face.engines.sides import Side, Sides
from captum_face.pair.passes import BatchSize

__all__ = ["SwapRISE", "visibility_effect"]


@method(
    "swap_rise",
    display="SwapRISE",
    family="occlusion",
    source="this package",
    passes="4 n_masks + cohort + 2 forward",
)
class SwapRISE(MorphingAttribution):
    r"""Random patches that show other faces: the black-box sibling of :class:`~captum_face.MorphGradients`.

    As in CorrRISE (Lu et al., WACV 2024, arXiv 2305.08546) random patches of one image are replaced many
    times, while the other image stays intact. But they don't become black: they show the same place of a
    face. That of a member of a cohort asks what makes the score higher than other people's, that of the
    partner what keeps it below a perfect match. A pixel's value is how its being the image's own goes with
    the score,

    .. math:: M(p) = \mathrm{corr}_i(m_i(p), s_i) \cdot \mathrm{std}_i(s_i),

    once with a cohort C in the patches and once with the partner B, joined as the maps of
    :class:`~captum_face.MorphGradients` are.

    Args:
        forward_func: What gives the scores: a :class:`~captum_face.PairSimilarity`, or any callable
            ``(image_a, image_b) -> (N,)``. No gradients are needed.
        cohort: Aligned faces of other people ``(M, C, H, W)``, or a folder of them; None for rendered
            ones.
    """

    @on_sides
    def attribute(
        self,
        sides: Sides,
        *,
        cohort: Tensor | str | Path | None = None,
        threshold: float | None = None,
        position: float | None = None,
        n_masks: int = 250,
        n_patches: int = 3,
        patch_size: int | tuple[int, int] | None = None,
        n_cohort: int = 16,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        perturbations_per_eval: BatchSize = None,
    ) -> tuple[Tensor, ...]:
        r"""Signed maps of both images, as :class:`~captum_face.PairAttribution` says.

        Args:
            cohort: Aligned faces of people in neither image ``(M, C, H, W)``, or a folder of them; None
                for the constructor's, and rendered people if that has none.
            threshold: The threshold :math:`\theta` in units of the score; None for the pair's own.
            position: How much the map asks from the partner (1) rather than from the cohort (0); None for
                what score and threshold say.
            n_masks: Masks for each image and question.
            n_patches: Patches that each mask swaps.
            patch_size: Side of a patch in pixels, or ``(height, width)``; None for 30/112 of the sides.
            n_cohort: Members of the cohort who take turns, of more so many are drawn. At most half of
                ``n_masks``.

        Returns:
            ``(attr_a, attr_b)`` in units of score, for a standard deviation of a pixel's visibility.
            Positive where the image's own pixels, rather than another face's, raise the score. Neighbours
            in a patch share the effect, so a map does not add up to the score.

        Cost: for each image ``2 n_masks`` forward passes, of which half are shared by all its partners;
        one for each member of the cohort and 2 more for a pair. No backward pass.

        Raises:
            TypeError: ``forward_func`` does not answer with numbers.
            ValueError: bad images, cohort, scores or options.

        Warns:
            UserWarning: a small cohort, members who look like a person of the pair, images that seem not
                to be aligned.
        """
        theta = self._threshold(sides, threshold, require_position(position))
        found = self._both_questions(
            sides,
            cohort=cohort,
            threshold=theta,
            n_masks=n_masks,
            n_patches=n_patches,
            patch_size=patch_size,
            n_cohort=n_cohort,
            seed=seed,
            generator=generator,
        )
        return found.joined(found.positions(theta, position))

    @on_sides
    def components(self, sides: Sides, **options: Any) -> MorphComponents:
        """The maps of both questions before they are joined.

        Options and cost are those of :meth:`attribute`, without ``position``. The threshold only says who is
        too similar to be in the cohort.
        """
        return self._both_questions(sides, **options)

    def _both_questions(
        self,
        sides: Sides,
        *,
        cohort: Tensor | str | Path | None = None,
        threshold: float | None = None,
        n_masks: int = 250,
        n_patches: int = 3,
        patch_size: int | tuple[int, int] | None = None,
        n_cohort: int = 16,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        perturbations_per_eval: BatchSize = None,  # the sides heed it
    ) -> MorphComponents:
        theta, generator = sides.threshold(threshold), require_generator(seed, generator)
        require_positive_int(n_cohort, "n_cohort")
        if require_positive_int(n_masks, "n_masks") < 2:
            raise ValueError("expected n_masks of at least 2, got 1: one score has no difference")
        masks = random_patches(
            n_masks, sides.size, n_patches=n_patches, patch_size=patch_size, generator=generator
        )
        # Members take turns, so that each has as many masks as any other, and two at least: a single
        # score, relative to the member's mean, would say nothing.
        n_members = min(n_cohort, n_masks // 2)
        drawn = self._drawn(sides, cohort, n_members, generator)
        faces, whose = drawn.faces, cycle_members(drawn.faces, n_masks)

        def one(side: Side) -> tuple[Tensor, Tensor]:
            above = side.masked_scores(masks, faces[whose])
            # What a member's own pixels do to all scores alike is not about where the patches are.
            for member in range(len(faces)):
                own = above[:, whose == member]
                above[:, whose == member] = own - own.mean(1, keepdim=True)
            below = torch.cat([single.masked_scores(masks, single.partners) for single in side.each()])
            effects = (visibility_effect(scores, masks)[:, None] for scores in (above, below))
            for_cohort, for_partner = (effect.expand(-1, side.image.shape[1], -1, -1) for effect in effects)
            return for_cohort, for_partner

        return self._components(sides, drawn, one, 2 * n_masks, n_points=n_members, threshold=theta)


def visibility_effect(scores: Tensor, masks: Tensor) -> Tensor:
    """How much the score rises with a pixel's visibility, by one standard deviation of the latter.

    CorrRISE's correlation times the standard deviation of the scores, so that maps of different scores can
    be added. (The mean score of visible less that of hidden pixels would be noise in the corners, which few
    masks hide.)

    Args:
        scores: ``(K, n)``, a row for each partner, from :func:`~captum_face.engines.masks.masked_scores`.
        masks: ``(n, H, W)`` bool, 1 = kept.

    Returns:
        ``(K, H, W)`` in units of score, double precision; 0 at pixels that all masks keep or all hide.
    """
    scores = scores.double()
    return correlation_map(scores, masks) * scores.std(1, correction=0)[:, None, None]
