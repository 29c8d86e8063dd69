"""xFace: systematic occlusions of one or both images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from captum_face._validation import require_choice, require_positive
from captum_face.attr.base import PairAttribution, on_sides
from captum_face.attr.registry import method
from captum_face.engines.masks import apply_masks, sliding_windows
from captum_face.engines.sides import Side, Sides
from captum_face.maps.signed import smooth
from captum_face.pair.passes import BatchSize, in_passes
from captum_face.pair.similarity import PairSimilarity

__all__ = ["XFace", "window_map"]


@method(
    "xface",
    display="xFace",
    family="occlusion",
    source="arXiv 2211.13735",
    passes="about 2500 forward at 112 px",
)
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
    """

    @on_sides
    def attribute(
        self,
        sides: Sides,
        *,
        variant: str = "cross",
        sizes: Sequence[int] | None = None,
        stride: int | None = None,
        sigma: float | None = None,
        perturbations_per_eval: BatchSize = None,
    ) -> tuple[Tensor, ...]:
        """Signed maps of both images, as :class:`~captum_face.PairAttribution` says.

        Args:
            variant: ``"cross"``: every occlusion of one image against every one of the other;
                ``"single"``: against the intact other; ``"paired"``: the same square in both.
            sizes: Sides of the squares in pixels; None for 7/112, 14/112 and 28/112 of the shorter side.
            stride: Step in pixels; None for 5/112 of the shorter side. It may not exceed a square.
            sigma: Standard deviation of the blur in pixels; None for 2/112 of the shorter side.
            perturbations_per_eval: Occluded images in one forward pass; memory grows with it. None for
                what suits the device, ``"auto"`` for what is measured to be cheapest.

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
        unit = min(sides.size) / 112
        sizes = [max(1, round(length * unit)) for length in (7, 14, 28)] if sizes is None else list(sizes)
        if not sizes:
            raise ValueError("expected at least one size of squares, got none")
        step = max(1, round(5 * unit)) if stride is None else stride
        masks = [sliding_windows(sides.size, (length, length), (step, step)) for length in sizes]
        blur = 2 * unit if sigma is None else sigma
        if variant == "single":
            scores = partial(_single, masks)
        elif not isinstance(sides.forward_func, PairSimilarity):
            scores = partial(_called, masks, variant)
        else:
            scores = partial(_embedded, masks, variant, [{}, {}])

        def one(side: Side) -> Tensor:
            intact, *occluded = scores(side)
            maps = [
                smooth(window_map(intact - part, which), blur)
                for part, which in zip(occluded, masks, strict=True)
            ]
            return torch.stack(maps).mean(0)

        return sides.explain(one, 1 + sum(map(len, masks)))


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


def _single(masks: list[Tensor], side: Side) -> list[Tensor]:
    """Scores ``(K, 1)`` of the intact image, and ``(K, n)`` under the squares of each size."""
    found = side.masked_scores(torch.cat([torch.ones_like(masks[0][:1]), *masks]))
    return list(found.split([1, *map(len, masks)], dim=1))


def _called(masks: list[Tensor], variant: str, side: Side) -> list[Tensor]:
    """The same where both are occluded, for functions of two images: every pair of occlusions passes."""
    found = [side.masked_scores(torch.ones_like(masks[0][:1]))]
    for which in masks:
        rows = []
        for single in side.each():
            hidden = apply_masks(single.partners, which)
            if variant == "cross":
                rows.append(replace(single, partners=hidden, counted=False).masked_scores(which).mean(0))
            else:
                each = (replace(single, partners=b[None], counted=False) for b in hidden)
                rows.append(
                    torch.cat([b.masked_scores(m[None])[0] for b, m in zip(each, which, strict=True)])
                )
        side.done(len(which))
        found.append(torch.stack(rows))
    return found


def _embedded(
    masks: list[Tensor], variant: str, done: list[dict[int, tuple[Tensor, ...]]], side: Side
) -> list[Tensor]:
    """The same for embeddings: each occluded image is embedded once, when first asked for, for both sides."""
    pair, found = side.quick, []
    every = torch.cat([torch.ones_like(masks[0][:1]), *masks])

    def occluded(swapped: bool, row: int) -> tuple[Tensor, ...]:
        """Embeddings of an image: intact, and under the squares of each size."""
        images = side.sides.images[swapped]
        index = row if len(images) > 1 else 0
        if index in done[swapped]:
            return done[swapped][index]
        image, parts = images[index, None], []
        for embedded in in_passes(
            lambda masks: pair.embed(apply_masks(image, masks)), every, side.images_per_pass()
        ):
            parts.append(embedded)
            side.done(len(embedded))
        result = torch.cat(parts).split([1, *map(len, masks)])
        if swapped in side.sides.which:  # else it is not asked for again
            done[swapped][index] = result
        return result

    own = occluded(side.swapped, side.rows.start)
    for row in range(side.rows.start, side.rows.stop):
        partner = occluded(not side.swapped, row)
        found.append([_joint(side, variant, a, b) for a, b in zip(own, partner, strict=True)])
    return [torch.stack(parts).double() for parts in zip(*found, strict=True)]


def _joint(side: Side, variant: str, own: Tensor, partner: Tensor) -> Tensor:
    """Scores ``(n,)`` of one image's occlusions, on average over those of its partner, or with its like."""
    score = side.pair.score
    if variant == "paired":
        return score(*side.ordered(own, partner))
    # In chunks: all pairs of embeddings at once would take n^2 D values.
    return torch.cat([score(*side.ordered(part, partner[None])).mean(1) for part in own[:, None].split(32)])
