"""What the methods that ask from a cohort and from the partner share.

Two kinds of ends of a morph ask two questions. From a *cohort* of other people to the image: why is the score
above theirs? From the *partner* to the image: why is it below that of a perfect match?
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from captum_face.attr.base import PairAttribution
from captum_face.engines.cohort import (
    Cohort,
    cycle_members,
    draw_cohort,
    require_cohort,
    warn_of_similar,
    warn_unaligned,
)
from captum_face.engines.sides import Side, Sides
from captum_face.pair.similarity import PairSimilarity, score_pairs

__all__ = ["SMOOTHING", "Ends", "MorphComponents", "MorphingAttribution", "require_position"]

#: Standard deviations of the Gaussians that spread the maps of cohort and partner, as shares of the shorter
#: side.
SMOOTHING = (5 / 112, 8 / 112)


class MorphComponents(NamedTuple):
    """Both questions' maps; made by ``components()`` of the methods that morph.

    For each of them a tuple, for image A and image B; for image A alone where only that is explained.
    """

    cohort: tuple[Tensor, ...]  #: ``(N, C, H, W)``: why the score is above that of a cohort
    partner: tuple[Tensor, ...]  #: ``(N, C, H, W)``: why it is below that of a perfect match
    cohort_scores: tuple[Tensor, ...]  #: ``(N,)``: the cohort's mean score against the partner
    perfect_scores: tuple[Tensor, ...]  #: ``(N,)``: the partner's score against itself
    scores: Tensor  #: ``(N,)``: of the pairs

    def positions(self, threshold: float | None, position: float | None = None) -> tuple[Tensor, ...]:
        r"""How much of each map is about the partner (1) rather than the cohort (0), ``(N,)`` for each image.

        With :math:`p_s` and :math:`p_\theta` for where score and threshold lie between the cohort (0) and a
        perfect match (1), the odds of the cohort's question are those of the score over those of the
        threshold,

        .. math:: \frac{1 - \lambda}{\lambda} = \frac{p_s}{1 - p_s} \bigg/ \frac{p_\theta}{1 - p_\theta} .

        So at the threshold both count alike, and the further a pair is from it, the more its map answers
        the question that its decision raises: why accepted, or why not.

        Args:
            threshold: In units of the score; None for the middle between the cohort and a perfect match.
            position: A fixed value instead, whatever score and threshold are.
        """
        if position is not None:
            return tuple(torch.full_like(scores, position) for scores in self.cohort_scores)
        return tuple(
            _odds_position(self.scores, threshold, low, high)
            for low, high in zip(self.cohort_scores, self.perfect_scores, strict=True)
        )

    def joined(self, positions: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Both maps in one, ``(1 - position) * cohort + position * partner``, for each image."""
        weights = (position[:, None, None, None] for position in positions)
        return tuple(
            (1 - weight) * above + weight * below
            for above, below, weight in zip(self.cohort, self.partner, weights, strict=True)
        )

    def explained(self, positions: tuple[Tensor, ...]) -> Tensor:
        """What the joined maps should sum to, ``(N, 2)``: the score less that of the two ends, weighted."""
        sums = [
            self.scores - (1 - weight) * low - weight * high
            for low, high, weight in zip(self.cohort_scores, self.perfect_scores, positions, strict=True)
        ]
        return torch.stack(sums, 1)


def _odds_position(scores: Tensor, threshold: float | None, low: Tensor, high: Tensor) -> Tensor:
    """The share of the question from above: 1 at ``low``, 1/2 at the threshold, 0 at ``high``."""
    # A threshold or score beyond an end is taken for that end.
    below, above = (scores - low).clamp(min=0), (high - scores).clamp(min=0)
    theta = (low + high) / 2 if threshold is None else threshold
    from_low, from_high = (theta - low).clamp(min=0), (high - theta).clamp(min=0)
    partner, cohort = above * from_low, below * from_high
    total = partner + cohort
    return torch.where(total > 0, partner / total.where(total > 0, 1), 0.5)


class MorphingAttribution(PairAttribution):
    """Base of the methods that ask two questions, with other faces in place of an image, and join the maps.

    Args:
        forward_func: As for every method.
        cohort: Aligned faces of other people ``(M, C, H, W)``, or a folder of them; None for rendered ones.
    """

    def __init__(
        self, forward_func: Callable[..., Tensor], cohort: Tensor | str | Path | None = None
    ) -> None:
        super().__init__(forward_func)
        self.cohort = cohort

    @staticmethod
    def _threshold(sides: Sides, given: float | None, position: float | None) -> float | None:
        """The threshold that joins the maps; where there is none and it is needed, a remark says so."""
        threshold = sides.threshold(given)
        if threshold is None and position is None:
            sides.remarks["threshold"] = "threshold midway between cohort and perfect match (none given)"
        return threshold

    def _drawn(
        self, sides: Sides, cohort: Tensor | str | Path | None, n: int, generator: torch.Generator | None
    ) -> Cohort:
        """``n`` members of the cohort; a remark says whom the maps compare with."""
        given = self.cohort if cohort is None else cohort
        drawn = draw_cohort(require_cohort(given, sides.images, sides.template), n, generator)
        sides.remarks["cohort"] = f"cohort: {drawn.origin}"
        return drawn

    def _components(
        self,
        sides: Sides,
        drawn: Cohort,
        one: Callable[[Side], tuple[Tensor, Tensor]],
        steps: int,
        *,
        n_points: int,
        threshold: float | None,
    ) -> MorphComponents:
        """Both questions' maps with what the ends of all morphs score.

        Args:
            sides: What the method was handed.
            drawn: The cohort.
            one: From a side to the maps of cohort and partner, ``(K, C, H, W)`` each.
            steps: What :meth:`Side.done` counts up to for one image.
            n_points: Points that the cohort shares by :func:`~captum_face.engines.cohort.cycle_members`, for
                whose starts the mean score stands.
            threshold: As for :meth:`Ends.of`.
        """
        ends = Ends.of(sides, drawn, threshold, n_points=n_points)
        maps = sides.explain(lambda side: torch.cat(one(side), 1), steps)
        above, below = zip(*(of_side.chunk(2, dim=1) for of_side in maps), strict=True)
        return MorphComponents(above, below, *ends)


class Ends(NamedTuple):
    """What the ends of all morphs score, before the first morph; as in :class:`MorphComponents`."""

    cohort_scores: tuple[Tensor, ...]
    perfect_scores: tuple[Tensor, ...]
    scores: Tensor

    @classmethod
    def of(
        cls,
        sides: Sides,
        cohort: Cohort,
        threshold: float | None,
        *,
        n_points: int | None = None,
    ) -> Ends:
        """Scores the ends, and warns of what makes morphs meaningless.

        Args:
            sides: What the method was handed.
            cohort: From :func:`~captum_face.engines.cohort.draw_cohort`. Of rendered faces nothing is said of
                how photos lie on them.
            threshold: Members who score as high look like the pairs' own people; None for the middle between
                the cohort's mean score and a perfect match.
            n_points: Points that the members share by :func:`~captum_face.engines.cohort.cycle_members`, for
                whose starts the mean score stands; None for one a member.

        Cost: a forward pass for each image and each member; with another callable a score for each member and
        image, and three for each pair.

        Warns:
            CohortWarning: members who look like a person of the pairs; images that seem not to be aligned.
        """
        if isinstance(sides.forward_func, PairSimilarity):
            ends = sides.embeddings(False), sides.embeddings(True)
            members = sides.pair.embed_in_passes(cohort.faces, sides.batch_size)

            def score(first: Tensor, second: Tensor) -> Tensor:
                return sides.pair.contributions(first, second).sum(-1)
        else:
            ends, members = sides.images, cohort.faces

            def score(first: Tensor, second: Tensor) -> Tensor:
                return score_pairs(sides.forward_func, first, second)

        # In the place of image A against all images B, and the other way round: (M, N) each.
        against = (
            torch.stack([score(member, ends[1]) for member in members[:, None]]),
            torch.stack([score(ends[0], member) for member in members[:, None]]),
        )
        perfect = tuple(score(end, end) for end in ends)
        if not cohort.rendered:
            scores = torch.cat(against, 1)
            middle = (scores.mean(0) + torch.cat([perfect[1], perfect[0]])) / 2
            of_pair = sides.forward_func if isinstance(sides.forward_func, PairSimilarity) else None
            similar = warn_of_similar(
                cohort.names,
                scores,
                middle if threshold is None else threshold,
                None if of_pair is None else of_pair.score.distance,
            )
            if similar is not None:
                sides.remarks["similar_members"] = f"members who score like the pair's own person: {similar}"
            warn_unaligned(sides.images, sides.template)
        members_of_points = cycle_members(cohort.faces, n_points or len(cohort.faces))
        n = sides.n_pairs
        return cls(
            tuple(against[swapped][members_of_points].mean(0).expand(n) for swapped in sides.which),
            tuple(perfect[not swapped].expand(n) for swapped in sides.which),
            sides.scores,
        )


def require_position(position: float | None) -> float | None:
    """Returns ``position`` if it is None or in [0, 1].

    Raises:
        ValueError: it is neither.
    """
    if position is None:
        return None
    number = isinstance(position, (int, float)) and not isinstance(position, bool)
    if not number or not 0 <= position <= 1:
        raise ValueError(f"expected position in [0, 1], from the cohort to a perfect match, got {position!r}")
    return position
