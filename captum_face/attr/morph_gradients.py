"""Morph gradients: integrated gradients along morphs between aligned faces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from captum_face._validation import require_generator, require_positive, require_positive_int
from captum_face.attr._morphing import SMOOTHING, MorphComponents, MorphingAttribution, require_position
from captum_face.attr.base import on_sides
from captum_face.attr.registry import method
from captum_face.engines.cohort import cycle_members
from captum_face.engines.morphs import Morphs, morphs
from captum_face.engines.sides import Side, Sides, gradients_enabled, image_gradient
from captum_face.maps.signed import smooth
from captum_face.pair.passes import BatchSize, in_passes

__all__ = ["MorphGradients"]


@method(
    "morph_gradients",
    family="gradient",
    source="this package",
    passes="4 n_points backward, 4 n_points + cohort + 2 forward",
    needs="gradients",
)
class MorphGradients(MorphingAttribution):
    r"""Gradients along morphs from a cohort and from the partner: what speaks for and against a decision.

    A face that morphs into another one of its alignment stays a face on all of its way. The gradients of the
    score along the way, times what changes there, add up to the change of the score. For image A,

    .. math:: M_C = \int \nabla_A s(x_t, B) \odot \dot x_t \, dt \quad (x: C \to A), \qquad
        M_B = \int \nabla_A s(x_t, B) \odot \dot x_t \, dt \quad (x: B \to A),

    the former on average over a cohort C of other people, so that
    :math:`\sum M_C = s(A, B) - \bar s(C, B)` says why the score is above the cohort's, and
    :math:`\sum M_B = s(A, B) - s(B, B)` why it is below a perfect match. The
    map is :math:`S_A = (1 - \lambda) \, M_C + \lambda \, M_B`, in which both questions count alike at the
    threshold, the former more above it and the latter below it
    (:meth:`~captum_face.attr._morphing.MorphComponents.positions`). From the partner every region changes in
    its own time (:func:`~captum_face.engines.morphs.morphs`).

    It is integrated gradients (Sundararajan et al. 2017, arXiv 1703.01365) from expected baselines (Erion et
    al. 2021, arXiv 1906.10670) that are faces. Paths and joining are this package's.

    Args:
        forward_func: The :class:`~captum_face.PairSimilarity` to explain; its model must be
            differentiable.
        cohort: Aligned faces of other people ``(M, C, H, W)``, or a folder of them; None for rendered
            ones.
    """

    @on_sides(convergence_delta=True)
    def attribute(
        self,
        sides: Sides,
        *,
        cohort: Tensor | str | Path | None = None,
        threshold: float | None = None,
        position: float | None = None,
        n_points: int = 24,
        softness: float | None = 1.0,
        smoothing: float | tuple[float, float] | None = None,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        internal_batch_size: BatchSize = None,
    ) -> tuple[Tensor, ...]:
        r"""Signed maps of both images, as :class:`~captum_face.PairAttribution` says.

        Args:
            cohort: Aligned faces of people in neither image ``(M, C, H, W)``, or a folder of them; None
                for the constructor's, and rendered people if that has none.
            threshold: The threshold :math:`\theta` in units of the score; None for the pair's own.
            position: How much the map asks from the partner (1) rather than from the cohort (0); None for
                what score and threshold say.
            n_points: Points on morphs from the cohort, and as many on morphs from the partner. The members of
                the cohort take turns; of more so many are drawn.
            softness: On morphs from the partner, how long a pixel takes to change, relative to the time
                between the first one and the last: see :func:`captum_face.engines.morphs.morphs`. None for
                all at once, as from the cohort, where regions were measured to bring nothing.
            smoothing: Standard deviations in pixels of the Gaussians that spread the maps of cohort and
                partner, or one for both, which keeps their sums; None for 5/112 and 8/112 of the shorter
                side, 0 for none.
            internal_batch_size: Points in one pass; memory grows with it. None for what suits the device,
                ``"auto"`` for what is measured to be cheapest. Half as many from where memory runs out.

        Returns:
            ``(attr_a, attr_b)`` in units of score. Positive supports an accept, negative argues for a
            reject. Up to the integration's error a map sums to the score less the scores of its ends,
            :math:`s(A, B) - (1 - \lambda) \bar s(C, B) - \lambda s(B, B)`.

            With ``return_convergence_delta`` the tuple ``((attr_a, attr_b), delta)``: ``delta`` ``(N, 2)``,
            the sum of each map less what it explains.

        Cost: for each image ``2 n_points`` forward and backward passes, of which half of the forward passes
        are shared by all its partners; for a pair one more forward pass for each member of the cohort, and 2.

        Raises:
            TypeError: ``forward_func`` is not a :class:`~captum_face.PairSimilarity`, or its model cannot
                be differentiated.
            ValueError: bad images, cohort, embeddings or options.

        Warns:
            UserWarning: a small cohort, members who look like a person of the pair, images that seem not
                to be aligned to each other.
        """
        theta = self._threshold(sides, threshold, require_position(position))
        found = self._both_questions(
            sides,
            cohort=cohort,
            threshold=theta,
            n_points=n_points,
            softness=softness,
            smoothing=smoothing,
            seed=seed,
            generator=generator,
        )
        positions = found.positions(theta, position)
        maps = found.joined(positions)
        for swapped, of_side, explained in zip(sides.which, maps, found.explained(positions).T, strict=True):
            sides.note(swapped, "convergence_delta", of_side.sum((1, 2, 3)) - explained)
        return maps

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
        n_points: int = 24,
        softness: float | None = 1.0,
        smoothing: object = None,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        internal_batch_size: BatchSize = None,  # the sides heed it
    ) -> MorphComponents:
        theta, generator = sides.threshold(threshold), require_generator(seed, generator)
        sigmas = _require_smoothing(smoothing, min(sides.size))
        require_positive_int(n_points, "n_points")
        lines = morphs(n_points, sides.size, softness=None, generator=generator)
        regions = morphs(n_points, sides.size, softness=softness, generator=generator)
        drawn = self._drawn(sides, cohort, n_points, generator)

        def one(side: Side) -> tuple[Tensor, Tensor]:
            limit = side.images_per_pass(backward=True)
            above = _path_gradients(side, lines, drawn.faces, limit)
            below = [_path_gradients(single, regions, single.partners, limit) for single in side.each()]
            return smooth(above, sigmas[0], keep_sum=True), smooth(torch.cat(below), sigmas[1], keep_sum=True)

        return self._components(sides, drawn, one, 2 * n_points, n_points=n_points, threshold=theta)


def _require_smoothing(smoothing: object, length: int) -> tuple[float, float]:
    if smoothing is None:
        return SMOOTHING[0] * length, SMOOTHING[1] * length
    both = smoothing if isinstance(smoothing, (tuple, list)) else (smoothing, smoothing)
    if len(both) != 2:
        raise ValueError(f"expected smoothing for cohort and partner, got {len(both)} values")
    above, below = (require_positive(sigma, "smoothing, in pixels,", or_zero=True) for sigma in both)
    return above, below


def _path_gradients(side: Side, points: Morphs, starts: Tensor, limit: int) -> Tensor:
    """Gradients of the score at points on morphs to an image, times what changes there.

    Args:
        side: The image, and the partners against which points are scored.
        points: Where.
        starts: Where morphs begin ``(M, C, H, W)``; they take turns.
        limit: Points in one pass.

    Returns:
        ``(K, C, H, W)``.
    """

    def work(rows: Tensor) -> Tensor:
        start = starts[cycle_members(starts, len(points.shares))[rows]]
        change = side.image - start
        shares, weights = (values[rows][:, None].to(change) for values in points)
        with gradients_enabled():
            morph = (start + shares * change).requires_grad_()
            own = side.quick.embed(morph)
            maps = []
            for index, partner in enumerate(side.partner_embeddings):
                scores = side.contributions(own, partner[None]).sum(-1)
                more = index + 1 < len(side.partner_embeddings)
                gradient = image_gradient(scores, morph, retain_graph=more)
                maps.append((gradient * weights * change).sum(0))
        side.done(len(rows))
        return torch.stack(maps)

    total = torch.zeros(len(side.partner_embeddings), *side.image.shape[1:]).to(side.image)
    for part in in_passes(work, torch.arange(len(points.shares)), limit):
        total += part
    return total
