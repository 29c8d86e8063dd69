"""BiLRP: which region of one face speaks with which region of the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from captum_face._progress import progress_bar
from captum_face._validation import require_positive_int
from captum_face.attr.base import on_sides
from captum_face.attr.lrp import RelevanceAttribution
from captum_face.attr.registry import method
from captum_face.engines.sides import Side, Sides
from captum_face.pair.passes import BatchSize
from captum_face.pair.similarity import PairSimilarity

if TYPE_CHECKING:
    from zennit.canonizers import Canonizer
    from zennit.core import Composite

    from captum_face.lrp.propagation import Propagation

__all__ = ["BiLRP"]


@method(
    "bilrp",
    display="BiLRP",
    family="relevance",
    source="arXiv 2003.05431",
    passes="16 backward, about 48 forward",
    needs="gradients",
)
class BiLRP(RelevanceAttribution):
    r"""Joint relevance of pairs of regions (Eberle et al., PAMI 2020, arXiv 2003.05431).

    A similarity is a sum of products of both embeddings' channels, so that what a match rests on is pairs
    of features. LRP is run for each embedding channel k on its own, down both faces, and the joint
    relevance of place p in A and q in B is the product of the two, summed over the channels (their eq. 5):

    .. math:: R_{pq} = \sum_k R^A_{k,p} R^B_{k,q} .

    For the cosine :math:`R^A_k` starts with the unit embedding's :math:`f_{A,k}`. Here it is written
    :math:`R_{pq} = \sum_k c_k r^A_{k,p} r^B_{k,q}`, with the channel's share of the score :math:`c_k` and
    maps r that start with 1: the same for the cosine and the inner product, and defined for every score.
    The maps r depend on one image alone.

    Args:
        forward_func: As for :class:`~captum_face.attr.lrp.RelevanceAttribution`, and likewise
            ``composite``, ``canonizers``, ``unknown_layers`` and ``biases``.
        projections: None for all D channels; or the number P < D of random orthogonal directions that
            stand in for them, at P / D of the cost. The interactions then are an unbiased estimate, whose
            sum is exact: one direction is the one that the sum depends on.
        seed: Of the random directions.
    """

    forward_func: PairSimilarity

    def __init__(
        self,
        forward_func: PairSimilarity,
        composite: str | Composite = "face",
        canonizers: str | Sequence[Canonizer] | None = "auto",
        unknown_layers: str = "raise",
        biases: bool = False,
        projections: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(forward_func, composite, canonizers, unknown_layers, biases)
        self.projections = projections
        self.seed = seed

    @on_sides
    def attribute(self, sides: Sides, *, internal_batch_size: BatchSize = None) -> tuple[Tensor, ...]:
        r"""The marginals of the interactions: what each pixel of one image has to do with all of the other.

        Shapes and conventions are those of :class:`~captum_face.PairAttribution`. The marginal of
        A is :math:`\sum_q R_{pq}` at full resolution. Where the composite conserves relevance, every
        channel's map of B sums to 1, and the marginal is LRP's map.

        Args:
            internal_batch_size: Channels in one backward pass; memory grows with it. None for what suits
                the device.

        Returns:
            ``(attr_a, attr_b)``, a value for each colour channel, in units of the score, which each map
            sums to if the composite conserves relevance. Positive where the image speaks for a higher
            score. Deterministic, ``projections`` included.

        Cost: for each image about what :class:`~captum_face.LRP` costs, once, whatever number of partners it
        stands against, and one relevance pass for each of its pairs: the marginals need only what each
        channel's relevance sums to, which is one gradient for all channels together. Composites whose rules
        are not linear in the relevance (guided backpropagation) cost D relevance passes for each image.

        Raises:
            ImportError, TypeError, ValueError, RuntimeError: as for :class:`~captum_face.LRP`;
                ``projections`` that is not between 1 and D.
        """
        starts = self._starts(sides.contributions)
        propagation, size = self._propagation(sides), sides.images_per_pass(backward=True)
        known: dict[bool, Tensor] = {}

        def sums(side: Side) -> Tensor:
            """What the relevance of each channel of a single partner sums to, ``(D,)``."""
            if side.swapped in known:
                return known[side.swapped]
            result = propagation.sums(side.partners, size)
            if len(sides.images[not side.swapped]) == 1:
                known[side.swapped] = result
            return result

        def one(side: Side) -> Tensor:
            seeds = []
            for single in side.each():
                own, other, weights = starts(single.rows.start)
                if side.swapped:
                    own, other = other, own
                seeds.append((weights * (other @ sums(single))) @ own)
            side.done()
            chunks = propagation.maps(side.image, torch.stack(seeds), size)
            return torch.cat([relevance for _, relevance in chunks])

        return sides.explain(one)

    @on_sides
    def interactions(
        self, sides: Sides, *, grid: tuple[int, int] = (14, 14), internal_batch_size: BatchSize = None
    ) -> Tensor:
        """Joint relevance of each region of A with each region of B.

        Args:
            inputs: ``(image_a, image_b)``, each ``(N, C, H, W)`` in [0, 1]; a batch of 1 stands against N.
            grid: Rows and columns of equal regions that each image is divided into; they must divide its
                height and width.
            internal_batch_size: Channels in one backward pass; memory grows with it. None for what suits
                the device.

        Returns:
            ``(N, G, G)`` with G = rows x columns, regions counted row by row: ``[n, p, q]`` is the joint
            relevance of region p of A and q of B, in units of the score; all G x G sum to it where the
            composite conserves relevance, as the default one does. Positive where the two regions together
            speak for a higher score. :func:`~captum_face.show_interactions` draws them.

        Cost: D relevance passes for each image, each once, whatever number of partners it stands against;
        with ``projections`` P passes for each image of each pair. A relevance pass costs about 2 backward
        passes.

        Raises:
            ImportError, TypeError, ValueError, RuntimeError: as for :class:`~captum_face.LRP`; a grid that
                does not divide the images; ``projections`` that is not between 1 and D.
        """
        images = sides.images
        _require_grid(grid, images[0])
        shares, starts = sides.contributions, self._starts(sides.contributions)
        propagation, size = self._propagation(sides), sides.images_per_pass(backward=True)
        total = sum(map(len, images)) if self.projections is None else 2 * len(shares)
        result = []
        with progress_bar(total=total, desc=sides.name, disable=not sides.show_progress) as bar:
            # Without projections an image's maps are the same for all partners.
            known: dict[tuple[int, int], Tensor] = {}
            for row in range(len(shares)):
                own, other, weights = starts(row)
                maps = []
                for side, seeds in enumerate((own, other)):
                    index = row if len(images[side]) > 1 else 0
                    regions = known.get((side, index))
                    if regions is None:
                        regions = _regions(propagation, images[side][index, None], seeds, grid, size)
                        bar.update(1)
                    if self.projections is None and len(images[side]) == 1:
                        known[side, index] = regions
                    maps.append(regions)
                result.append(torch.einsum("m,mp,mq->pq", weights, *maps))
        return torch.stack(result)

    def _starts(self, shares: Tensor) -> Callable[[int], tuple[Tensor, Tensor, Tensor]]:
        """For a pair of the batch: starting relevances ``(M, D)`` of both sides, and weights ``(M,)``.

        Their weighted products sum to the diagonal matrix of the channels' shares, or to it in expectation.
        """
        dimensions = shares.shape[1]
        if self.projections is None:
            unit, ones = torch.eye(dimensions).to(shares), torch.ones(dimensions).to(shares)
            return lambda row: (unit, unit, shares[row] * ones)
        count = require_positive_int(self.projections, "projections")
        if count > dimensions:
            raise ValueError(
                f"expected at most as many projections as embedding channels, {dimensions}, got {count}; "
                "projections=None takes all channels"
            )

        def projected(row: int) -> tuple[Tensor, Tensor, Tensor]:
            root = shares[row].abs().sqrt()
            generator = torch.Generator().manual_seed(self.seed)
            noise = torch.randn(dimensions, dimensions - 1, generator=generator, dtype=torch.float32).to(
                shares
            )
            directions = torch.linalg.qr(torch.cat([root[:, None], noise], 1)).Q.T[:count]
            weights = torch.full((count,), (dimensions - 1) / max(count - 1, 1)).to(shares)
            weights[0] = 1  # the direction of the sum itself, the others stand for all that is left
            return directions * root, directions * root * shares[row].sign(), weights

        return projected


def _require_grid(grid: tuple[int, int], image: Tensor) -> None:
    if not isinstance(grid, (tuple, list)) or len(grid) != 2:
        raise TypeError(f"expected grid as (rows, columns), got {grid!r}")
    for regions, pixels, what in zip(grid, image.shape[-2:], ("rows", "columns"), strict=True):
        require_positive_int(regions, f"grid {what}")
        if pixels % regions:
            divisors = [n for n in range(1, pixels + 1) if pixels % n == 0]
            raise ValueError(
                f"expected a grid that divides the image of {tuple(image.shape[-2:])} pixels, got {regions} "
                f"{what} for {pixels} pixels; take one of {', '.join(map(str, divisors))}"
            )


def _regions(
    propagation: Propagation, image: Tensor, seeds: Tensor, grid: tuple[int, int], batch: int | None
) -> Tensor:
    """What each starting relevance becomes in each region, ``(M, G)``."""
    rows, columns = grid
    height, width = image.shape[-2] // rows, image.shape[-1] // columns
    return torch.cat(
        [
            relevance.sum(1).reshape(-1, rows, height, columns, width).sum((2, 4)).flatten(1)
            for _, relevance in propagation.maps(image, seeds, batch)
        ]
    )
