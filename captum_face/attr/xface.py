"""xFace: systematic occlusions of one or both images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from captum.log import log_usage
from torch import Tensor

from captum_face._validation import require_choice, require_positive
from captum_face.attr._base import PairAttribution, Side
from captum_face.engines.masks import apply_masks, masked_scores, sliding_windows
from captum_face.maps.signed import smooth
from captum_face.pair.passes import BatchSize, in_passes, require_batch_size
from captum_face.pair.similarity import PairSimilarity
from captum_face.pair.speed import accelerated, images_per_pass

__all__ = ["XFace", "window_map"]


class XFace(PairAttribution):
    r"""xFace (Knoche, Teepe, Hörmann and Rigoll, WACV workshops 2023, arXiv 2211.13735).

    Black squares of several sizes slide over the images. With the change of the score when square i hides
    part of A, per hidden pixel,

    .. math:: v_i = \frac{s(A, B) - s_i}{\text{size}^2}

    the map of one size is the mean of :math:`v_i` over the squares that cover a pixel, blurred; the map is
    the mean over sizes. The variants differ in what B shows meanwhile:

    ========== =======================================================================================
    ``cross``  every occlusion of B: :math:`s_i = \operatorname{mean}_j s(A \setminus i, B \setminus j)`
    ``single`` all of B: :math:`s_i = s(A \setminus i, B)`
    ``paired`` all but the same square: :math:`s_i = s(A \setminus i, B \setminus i)`
    ========== =======================================================================================

    Squares of 7, 14 and 28 pixels and steps of 5 on 112 x 112 images are the paper's; the width of the
    blur, and squares flush with the border where the steps don't reach it, are ours. The paper has
    distances; a distance that grows is a score that falls.

    Args:
        forward_func: What gives the scores: a :class:`~captum_face.PairSimilarity`, or any callable
            ``(image_a, image_b) -> (N,)``. No gradients are needed.
    """

    @log_usage()
    def attribute(
        self,
        inputs: tuple[Tensor, Tensor],
        *,
        variant: str = "cross",
        sizes: Sequence[int] | None = None,
        stride: int | None = None,
        sigma: float | None = None,
        perturbations_per_eval: BatchSize = None,
        show_progress: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Signed maps of both images; what the inputs and the result are stands at
        :class:`~captum_face.PairAttribution`.

        Args:
            inputs: ``(image_a, image_b)``.
            variant: ``"cross"``: every occlusion of one image against every one of the other;
                ``"single"``: against the intact other; ``"paired"``: the same square in both.
            sizes: Sides of the squares in pixels; None for 7/112, 14/112 and 28/112 of the shorter side.
            stride: Step in pixels; None for 5/112 of the shorter side. It may not exceed a square.
            sigma: Standard deviation of the blur in pixels; None for 2/112 of the shorter side.
            perturbations_per_eval: Occluded images in one forward pass; memory grows with it. None for
                what suits the device, ``"auto"`` for what is measured to be cheapest.
            show_progress: Show a progress bar over the squares.

        Returns:
            ``(attr_a, attr_b)`` in score per hidden pixel. Positive where hiding lowers the score.
            Deterministic.

        Cost: for each image a forward pass for each square (1249 by default), and one for the intact image
        and its partner; ``cross`` and ``paired`` embed each side once and use both sides' embeddings. With
        another callable than a :class:`~captum_face.PairSimilarity`, ``cross`` needs the square of the
        squares: choose larger steps.

        Raises:
            TypeError: ``forward_func`` does not answer with numbers.
            ValueError: bad images, scores or options; a square larger than the image, steps that leave
                gaps.
        """
        require_choice(variant, ("cross", "single", "paired"), "variant")
        if sizes is not None and (isinstance(sizes, str) or not isinstance(sizes, Sequence)):
            raise TypeError(f"expected sizes as a list of sides in pixels, got {sizes!r}")
        if sigma is not None:
            require_positive(sigma, "sigma, in pixels,", or_zero=True)
        with self._prepared(inputs) as images:
            require_batch_size(perturbations_per_eval, "perturbations_per_eval")
            shape = (images[0].shape[2], images[0].shape[3])
            unit = min(shape) / 112
            sizes = [max(1, round(side * unit)) for side in (7, 14, 28)] if sizes is None else list(sizes)
            if not sizes:
                raise ValueError("expected at least one size of squares, got none")
            step = max(1, round(5 * unit)) if stride is None else stride
            masks = [sliding_windows(shape, (side, side), (step, step)) for side in sizes]
            blur = 2 * unit if sigma is None else sigma
            if variant == "single" or not isinstance(self.forward_func, PairSimilarity):
                scores = _from_scores(self.forward_func, masks, variant, perturbations_per_eval)
            else:
                both = self._sides_explained == 2
                scores = _from_embeddings(
                    self.forward_func, images, masks, variant, perturbations_per_eval, both
                )

            def explain(side: Side, progress: Callable[[int], object]) -> Tensor:
                intact, *occluded = scores(side, progress)
                maps = [
                    smooth(window_map(intact - part, which), blur)
                    for part, which in zip(occluded, masks, strict=True)
                ]
                return torch.stack(maps).mean(0)

            return self._explain_sides(images, explain, 1 + sum(map(len, masks)), show_progress)


def window_map(drops: Tensor, masks: Tensor) -> Tensor:
    """Mean over the windows that hide a pixel of the drop that each costs, per hidden pixel.

    Args:
        drops: ``(K, n)``, what the score loses under each window.
        masks: ``(n, H, W)`` bool from :func:`~captum_face.engines.masks.sliding_windows`, True = kept.

    Returns:
        ``(K, H, W)``, 0 at pixels that no window hides.
    """
    hidden = (~masks).flatten(1).to(drops)
    shares = (drops / hidden.sum(1)) @ hidden / hidden.sum(0).clamp(min=1)
    return shares.reshape(len(drops), *masks.shape[1:])


#: From one image to its scores ``(K, 1)`` intact, and ``(K, n)`` under the squares of each size.
_Scores = Callable[[Side, Callable[[int], object]], list[Tensor]]


def _from_scores(
    forward_func: Callable[..., Tensor], masks: list[Tensor], variant: str, per_eval: BatchSize
) -> _Scores:
    """For functions of two images; ``cross`` takes every pair of occlusions through it."""

    def scores(side: Side, progress: Callable[[int], object]) -> list[Tensor]:
        def against(partners: Tensor, which: Tensor, progress: Any = None) -> Tensor:
            return masked_scores(
                forward_func,
                side.image,
                partners,
                which,
                swapped=side.swapped,
                perturbations_per_eval=per_eval,
                progress=progress,
            )

        found = [against(side.partners, torch.ones_like(masks[0][:1]), progress)]
        for which in masks:
            if variant == "single":
                found.append(against(side.partners, which, progress))
                continue
            rows = []
            for partner in side.partners:
                hidden = apply_masks(partner[None], which)
                if variant == "cross":
                    rows.append(against(hidden, which).mean(0))
                else:
                    each = zip(hidden, which, strict=True)
                    rows.append(torch.cat([against(b[None], m[None])[0] for b, m in each]))
            progress(len(which))
            found.append(torch.stack(rows))
        return found

    return scores


def _from_embeddings(
    pair: PairSimilarity,
    images: tuple[Tensor, Tensor],
    masks: list[Tensor],
    variant: str,
    per_eval: BatchSize,
    both: bool,
) -> _Scores:
    """For embeddings: each occluded image is embedded once, when first asked for, and used for both sides.

    Where not ``both`` are explained, those of the other side's images are not kept.
    """
    counts = [1, *map(len, masks)]
    every = torch.cat([torch.ones_like(masks[0][:1]), *masks])
    done: list[dict[int, tuple[Tensor, ...]]] = [{}, {}]
    pair = accelerated(pair, images[0][:1])
    size = images_per_pass(per_eval, pair, images[0][:1])

    def occluded(swapped: bool, row: int, progress: Callable[[int], object]) -> tuple[Tensor, ...]:
        """Embeddings of an image: intact, and under the squares of each size."""
        index = row if len(images[swapped]) > 1 else 0
        if index in done[swapped]:
            return done[swapped][index]
        image, parts = images[swapped][index, None], []
        for embedded in in_passes(lambda masks: pair.embed(apply_masks(image, masks)), every, size):
            parts.append(embedded)
            progress(len(embedded))
        result = torch.cat(parts).split(counts)
        if both or not swapped:
            done[swapped][index] = result
        return result

    def scores(side: Side, progress: Callable[[int], object]) -> list[Tensor]:
        found = []
        with torch.no_grad():
            own = occluded(side.swapped, side.rows.start, progress)
            for row in range(side.rows.start, side.rows.stop):
                partner = occluded(not side.swapped, row, progress)
                found.append([joint(a, b, side.swapped) for a, b in zip(own, partner, strict=True)])
        return [torch.stack(parts).double() for parts in zip(*found, strict=True)]

    def joint(own: Tensor, partner: Tensor, swapped: bool) -> Tensor:
        if variant == "paired":
            return pair.score(*((partner, own) if swapped else (own, partner)))
        # In chunks: all pairs of embeddings at once would take n^2 D values.
        return torch.cat(
            [
                pair.score(*((partner[None], part) if swapped else (part, partner[None]))).mean(1)
                for part in own[:, None].split(32)
            ]
        )

    return scores
