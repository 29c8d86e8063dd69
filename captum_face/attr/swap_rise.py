"""Swap RISE: patches of one image swapped with other faces, and what that does to the score."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from captum.log import log_usage
from torch import Tensor

from captum_face._validation import require_generator, require_positive_int
from captum_face.attr._base import Side
from captum_face.attr._morphing import MorphingAttribution, halves, require_position
from captum_face.attr.corrrise import correlation_map
from captum_face.engines.masks import mask_scorer, random_patches
from captum_face.engines.morphs import MorphComponents, turns
from captum_face.pair.passes import BatchSize, require_batch_size

__all__ = ["SwapRISE", "visibility_effect"]


class SwapRISE(MorphingAttribution):
    r"""Random patches that show other faces: the black-box sibling of :class:`~captum_face.MorphGradients`.

    As in CorrRISE (Lu et al., WACV 2024, arXiv 2305.08546) random patches of one image are replaced many
    times, while the other image stays intact. But they don't become black: they show the same place of a
    face. That of a stranger asks what makes the score higher than a stranger's, that of the partner what
    keeps it below a perfect match. A pixel's value is how its being the image's own goes with the score,

    .. math:: M(p) = \mathrm{corr}_i(m_i(p), s_i) \cdot \mathrm{std}_i(s_i),

    once with strangers C in the patches and once with the partner B, joined as the maps of
    :class:`~captum_face.MorphGradients` are.

    Args:
        forward_func: What gives the scores: a :class:`~captum_face.PairSimilarity`, or any callable
            ``(image_a, image_b) -> (N,)``. No gradients are needed.
        strangers: Aligned faces of other people ``(M, C, H, W)``, or a folder of them; None for rendered
            ones.
    """

    @log_usage()
    def attribute(
        self,
        inputs: tuple[Tensor, Tensor],
        *,
        strangers: Tensor | str | Path | None = None,
        threshold: float | None = None,
        position: float | None = None,
        n_masks: int = 250,
        n_patches: int = 3,
        patch_size: int | tuple[int, int] | None = None,
        n_strangers: int = 16,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        perturbations_per_eval: BatchSize = None,
        show_progress: bool = False,
    ) -> tuple[Tensor, Tensor]:
        r"""Signed maps of both images; what the inputs and the result are stands at
        :class:`~captum_face.PairAttribution`.

        Args:
            inputs: ``(image_a, image_b)``, aligned to each other.
            strangers: Aligned faces of people in neither image ``(M, C, H, W)``, or a folder of them; None
                for the constructor's, and rendered people if that has none.
            threshold: The threshold :math:`\theta` in units of the score; None for the pair's own, and 0 for
                another callable.
            position: How much the map asks from the partner (1) rather than from strangers (0); None for
                what score and threshold say.
            n_masks: Masks for each image and question.
            n_patches: Patches that each mask swaps.
            patch_size: Side of a patch in pixels, or ``(height, width)``; None for 30/112 of the sides.
            n_strangers: Strangers who take turns, of more so many are drawn. At most half of ``n_masks``.
            seed: Makes the maps repeatable; without it and ``generator``, torch's global state is used.
            generator: The source of randomness itself, instead of ``seed``.
            perturbations_per_eval: Masked images in one forward pass; memory grows with it. None for what
                suits the device, ``"auto"`` for what is measured to be cheapest.
            show_progress: Show a progress bar over the masks.

        Returns:
            ``(attr_a, attr_b)`` in units of score, for a standard deviation of a pixel's visibility.
            Positive where the image's own pixels, rather than another face's, raise the score. Neighbours
            in a patch share the effect, so a map does not add up to the score.

        Cost: for each image ``2 n_masks`` forward passes, of which half are shared by all its partners;
        one for each stranger and 6 more for a pair. No backward pass.

        Raises:
            TypeError: ``forward_func`` does not answer with numbers.
            ValueError: bad images, strangers, scores or options.

        Warns:
            UserWarning: few strangers, strangers who look like a person of the pair, images that seem not
                to be aligned.
        """
        theta = self._theta(threshold)
        require_position(position)
        found = self.components(
            inputs,
            strangers=strangers,
            threshold=theta,
            n_masks=n_masks,
            n_patches=n_patches,
            patch_size=patch_size,
            n_strangers=n_strangers,
            seed=seed,
            generator=generator,
            perturbations_per_eval=perturbations_per_eval,
            show_progress=show_progress,
        )
        return found.joined(found.positions(theta, position))

    def components(
        self,
        inputs: tuple[Tensor, Tensor],
        *,
        strangers: Tensor | str | Path | None = None,
        threshold: float | None = None,
        n_masks: int = 250,
        n_patches: int = 3,
        patch_size: int | tuple[int, int] | None = None,
        n_strangers: int = 16,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        perturbations_per_eval: BatchSize = None,
        show_progress: bool = False,
    ) -> MorphComponents:
        """The maps of both questions before they are joined.

        Arguments and cost are those of :meth:`attribute`. The threshold only says who is no stranger.
        """
        theta = self._theta(threshold)
        require_positive_int(n_strangers, "n_strangers")
        require_batch_size(perturbations_per_eval, "perturbations_per_eval")
        if require_positive_int(n_masks, "n_masks") < 2:
            raise ValueError("expected n_masks of at least 2, got 1: one score has no difference")
        generator = require_generator(seed, generator)
        with self._prepared(inputs) as images:
            size = (images[0].shape[2], images[0].shape[3])
            masks = random_patches(
                n_masks, size, n_patches=n_patches, patch_size=patch_size, generator=generator
            )
            # Strangers take turns, so that each has as many masks as any other, and two at least: a single
            # score, relative to the stranger's mean, would say nothing.
            n_turns = min(n_strangers, n_masks // 2)
            drawn, ends = self._ends(images, strangers, n_turns, theta, generator, perturbations_per_eval)
            whose = turns(drawn, n_masks)

            def explain(side: Side, progress: Callable[[int], object]) -> Tensor:
                def scored(partners: Tensor, baselines: Tensor, counted: bool) -> Tensor:
                    score = mask_scorer(
                        self.forward_func,
                        side.image,
                        partners,
                        swapped=side.swapped,
                        baseline=baselines,
                        perturbations_per_eval=perturbations_per_eval,
                        progress=progress if counted else None,
                    )
                    return score(masks)

                above = scored(side.partners, drawn[whose], True)
                # What a stranger's own pixels do to all scores alike is not about where the patches are.
                for stranger in range(len(drawn)):
                    own = above[:, whose == stranger]
                    above[:, whose == stranger] = own - own.mean(1, keepdim=True)
                below = [
                    scored(partner[None], partner[None], index == 0)
                    for index, partner in enumerate(side.partners)
                ]
                both = [visibility_effect(scores, masks) for scores in (above, torch.cat(below))]
                channels = side.image.shape[1]
                return torch.cat([effect[:, None].expand(-1, channels, -1, -1) for effect in both], 1)

            sides = self._explain_sides(images, explain, 2 * n_masks, show_progress)
        return ends.components(*halves(sides))


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
