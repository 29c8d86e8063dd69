"""Morph gradients: integrated gradients along morphs between aligned faces."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple, overload

import torch
from captum.log import log_usage
from torch import Tensor

from captum_face._validation import require_generator, require_positive, require_positive_int
from captum_face.attr._base import Side, gradients_enabled, image_gradient
from captum_face.attr._morphing import MorphingAttribution, halves, require_position
from captum_face.engines.morphs import SMOOTHING, MorphComponents, Morphs, morphs, turns
from captum_face.maps.signed import smooth
from captum_face.pair.passes import BatchSize, in_passes, require_batch_size
from captum_face.pair.similarity import PairSimilarity
from captum_face.pair.speed import accelerated, images_per_pass

__all__ = ["MorphGradients"]


class MorphGradients(MorphingAttribution):
    r"""Gradients along morphs from strangers and from the partner: what speaks for and against a decision.

    A face that morphs into another one of its alignment stays a face on all of its way. The gradients of the
    score along the way, times what changes there, add up to the change of the score. For image A,

    .. math:: M_C = \int \nabla_A s(x_t, B) \odot \dot x_t \, dt \quad (x: C \to A), \qquad
        M_B = \int \nabla_A s(x_t, B) \odot \dot x_t \, dt \quad (x: B \to A),

    the former on average over strangers C, so that :math:`\sum M_C = s(A, B) - \bar s(C, B)` says why the
    score is above a stranger's, and :math:`\sum M_B = s(A, B) - s(B, B)` why it is below a perfect match. The
    map is :math:`S_A = (1 - \lambda) \, M_C + \lambda \, M_B`, in which both questions count alike at the
    threshold, the former more above it and the latter below it
    (:meth:`~captum_face.engines.morphs.MorphComponents.positions`). From the partner every region changes in
    its own time (:func:`~captum_face.engines.morphs.morphs`).

    It is integrated gradients (Sundararajan et al. 2017, arXiv 1703.01365) from expected baselines (Erion et
    al. 2021, arXiv 1906.10670) that are faces. Paths and joining are this package's.

    Args:
        forward_func: The :class:`~captum_face.PairSimilarity` to explain; its model must be
            differentiable.
        strangers: Aligned faces of other people ``(M, C, H, W)``, or a folder of them; None for rendered
            ones.
    """

    forward_func: PairSimilarity

    @overload
    def attribute(
        self,
        inputs: tuple[Tensor, Tensor],
        *,
        strangers: Tensor | str | Path | None = None,
        threshold: float | None = None,
        position: float | None = None,
        n_points: int = 24,
        softness: float | None = 1.0,
        smoothing: float | tuple[float, float] | None = None,
        return_convergence_delta: Literal[False] = False,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        internal_batch_size: BatchSize = None,
        show_progress: bool = False,
    ) -> tuple[Tensor, Tensor]: ...

    @overload
    def attribute(
        self,
        inputs: tuple[Tensor, Tensor],
        *,
        strangers: Tensor | str | Path | None = None,
        threshold: float | None = None,
        position: float | None = None,
        n_points: int = 24,
        softness: float | None = 1.0,
        smoothing: float | tuple[float, float] | None = None,
        return_convergence_delta: Literal[True],
        seed: int | None = None,
        generator: torch.Generator | None = None,
        internal_batch_size: BatchSize = None,
        show_progress: bool = False,
    ) -> tuple[tuple[Tensor, Tensor], Tensor]: ...

    @log_usage()
    def attribute(
        self,
        inputs: tuple[Tensor, Tensor],
        *,
        strangers: Tensor | str | Path | None = None,
        threshold: float | None = None,
        position: float | None = None,
        n_points: int = 24,
        softness: float | None = 1.0,
        smoothing: float | tuple[float, float] | None = None,
        return_convergence_delta: bool = False,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        internal_batch_size: BatchSize = None,
        show_progress: bool = False,
    ) -> Any:
        r"""Signed maps of both images; what the inputs and the result are stands at
        :class:`~captum_face.PairAttribution`.

        Args:
            inputs: ``(image_a, image_b)``, aligned to each other.
            strangers: Aligned faces of people in neither image ``(M, C, H, W)``, or a folder of them; None
                for the constructor's, and rendered people if that has none.
            threshold: The threshold :math:`\theta` in units of the score; None for the pair's own.
            position: How much the map asks from the partner (1) rather than from strangers (0); None for
                what score and threshold say.
            n_points: Points on morphs from strangers, and as many on morphs from the partner. Strangers take
                turns; of more so many are drawn.
            softness: On morphs from the partner, how long a pixel takes to change, relative to the time
                between the first one and the last: see :func:`captum_face.engines.morphs.morphs`. None for
                all at once, as from strangers, where regions were measured to bring nothing.
            smoothing: Standard deviations in pixels of the Gaussians that spread the maps of strangers and
                partner, or one for both, which keeps their sums; None for 5/112 and 8/112 of the shorter
                side, 0 for none.
            return_convergence_delta: Also return how far the sums of the maps are from what they explain.
            seed: Makes the morphs repeatable; without it and ``generator``, torch's global state is used.
            generator: The source of randomness itself, instead of ``seed``.
            internal_batch_size: Points in one pass; memory grows with it. None for what suits the device,
                ``"auto"`` for what is measured to be cheapest. Half as many from where memory runs out.
            show_progress: Show a progress bar over the points.

        Returns:
            ``(attr_a, attr_b)`` in units of score. Positive supports an accept, negative argues for a
            reject. Up to the integration's error a map sums to the score less the scores of its ends,
            :math:`s(A, B) - (1 - \lambda) \bar s(C, B) - \lambda s(B, B)`.

            With ``return_convergence_delta`` the tuple ``((attr_a, attr_b), delta)``: ``delta`` ``(N, 2)``,
            the sum of each map less what it explains.

        Cost: for each image ``2 n_points`` forward and backward passes, of which half of the forward passes
        are shared by all its partners; for a pair one more forward pass for each stranger, and 4.

        Raises:
            TypeError: ``forward_func`` is not a :class:`~captum_face.PairSimilarity`, or its model cannot
                be differentiated.
            ValueError: bad images, strangers, embeddings or options.

        Warns:
            UserWarning: few strangers, strangers who look like a person of the pair, images that seem not
                to be aligned to each other.
        """
        theta = self._theta(threshold)
        require_position(position)
        found = self.components(
            inputs,
            strangers=strangers,
            threshold=theta,
            n_points=n_points,
            softness=softness,
            smoothing=smoothing,
            seed=seed,
            generator=generator,
            internal_batch_size=internal_batch_size,
            show_progress=show_progress,
        )
        positions = found.positions(theta, position)
        maps = found.joined(positions)
        if not return_convergence_delta:
            return maps
        sums = torch.stack([attr.sum((1, 2, 3)) for attr in maps if len(attr)], 1)
        return maps, sums - found.explained(positions)[:, : sums.shape[1]]

    def components(
        self,
        inputs: tuple[Tensor, Tensor],
        *,
        strangers: Tensor | str | Path | None = None,
        threshold: float | None = None,
        n_points: int = 24,
        softness: float | None = 1.0,
        smoothing: float | tuple[float, float] | None = None,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        internal_batch_size: BatchSize = None,
        show_progress: bool = False,
    ) -> MorphComponents:
        """The maps of both questions before they are joined.

        Arguments and cost are those of :meth:`attribute`. The threshold only says who is no stranger.
        """
        pair = self._require_pair_similarity()
        theta = self._theta(threshold)
        sigmas = _require_smoothing(smoothing)
        require_positive_int(n_points, "n_points")
        require_batch_size(internal_batch_size, "internal_batch_size")
        generator = require_generator(seed, generator)
        with self._prepared(inputs) as images:
            size = (images[0].shape[2], images[0].shape[3])
            lines = morphs(n_points, size, softness=None, generator=generator)
            regions = morphs(n_points, size, softness=softness, generator=generator)
            drawn, ends = self._ends(images, strangers, n_points, theta, generator, internal_batch_size)

            def explain(side: Side, progress: Callable[[int], object]) -> Tensor:
                with torch.no_grad():
                    targets = pair.embed_in_passes(side.partners, internal_batch_size)
                quick = accelerated(pair, side.image)
                limit = images_per_pass(internal_batch_size, quick, side.image, backward=True)
                walk = _Walk(quick, side, limit)
                above = walk.charged(lines, drawn, targets, progress)
                # The bar counts images, however many partners they have.
                below = [
                    walk.charged(regions, partner[None], targets[i : i + 1], progress if i == 0 else _silent)
                    for i, partner in enumerate(side.partners)
                ]
                spread = (
                    smooth(maps, SMOOTHING[i] * min(size) if sigmas is None else sigmas[i], keep_sum=True)
                    for i, maps in enumerate((above, torch.cat(below)))
                )
                return torch.cat([*spread], 1)

            sides = self._explain_sides(images, explain, 2 * n_points, show_progress)
        return ends.components(*halves(sides))


def _require_smoothing(smoothing: object) -> tuple[float, float] | None:
    if smoothing is None:
        return None
    both = smoothing if isinstance(smoothing, (tuple, list)) else (smoothing, smoothing)
    if len(both) != 2:
        raise ValueError(f"expected smoothing for strangers and partner, got {len(both)} values")
    above, below = (require_positive(sigma, "smoothing, in pixels,", or_zero=True) for sigma in both)
    return above, below


class _Walk(NamedTuple):
    """What the score does along morphs to one image, charged to its pixels."""

    pair: PairSimilarity
    side: Side
    limit: int  #: points in one pass

    def charged(
        self, points: Morphs, starts: Tensor, targets: Tensor, progress: Callable[[int], object]
    ) -> Tensor:
        """Gradients at the points, times what changes there.

        Args:
            points: Where.
            starts: Where morphs begin ``(M, C, H, W)``; they take turns.
            targets: Embeddings ``(K, D)`` against which points are scored.
            progress: Called with the number of points done.

        Returns:
            ``(K, C, H, W)``.
        """

        def work(rows: Tensor) -> Tensor:
            start = starts[turns(starts, len(points.shares))[rows]]
            change = self.side.image - start
            shares, weights = (values[rows][:, None].to(change) for values in points)
            with gradients_enabled():
                morph = (start + shares * change).requires_grad_()
                own = self.pair.embed(morph)
                maps = []
                for index, target in enumerate(targets):
                    ends = (target[None], own) if self.side.swapped else (own, target[None])
                    scores = self.pair.contributions(*ends).sum(-1)
                    more = index + 1 < len(targets)
                    gradient = image_gradient(scores, morph, retain_graph=more)
                    maps.append((gradient * weights * change).sum(0))
            progress(len(rows))
            return torch.stack(maps)

        total = torch.zeros(len(targets), *self.side.image.shape[1:]).to(self.side.image)
        for part in in_passes(work, torch.arange(len(points.shares)), self.limit):
            total += part
        return total


def _silent(_: int) -> None:
    """A progress callback for what the bar does not count."""
