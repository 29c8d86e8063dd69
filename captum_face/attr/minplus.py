"""MinPlus: Gaussian spots removed from the image and added to an empty one, one by one and greedily."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from captum_face._validation import require_positive, require_positive_int
from captum_face.attr.base import PairAttribution, on_sides
from captum_face.attr.registry import method
from captum_face.engines.sides import Side, Sides
from captum_face.pair.passes import BatchSize

__all__ = ["MinPlus", "gaussian_spots"]


@method(
    "minplus",
    display="MinPlus",
    family="occlusion",
    source="CVPRW 2022",
    passes="4 n_steps grid² + 6 forward",
)
class MinPlus(PairAttribution):
    r"""After MinPlus (Mery, *True Black-Box Explanation in Facial Analysis*, CVPR workshops 2022).

    With Gaussian spots :math:`G_i` on a raster, the map is the mean of four:

    * removal: each spot alone is hidden, :math:`v_i = s(A, B) - s(A (1 - G_i), B)`;
    * addition: each spot alone is shown, :math:`v_i = s(A \, G_i, B) - s(0, B)`;
    * greedy removal and greedy addition: spot after spot is hidden or shown, each time the one that
      changes the score most, and :math:`v_i` is that change.

    The maps of single spots are :math:`\sum_i v_i G_i / \sum_i G_i`, those of greedy spots
    :math:`\sum_i v_i G_i`; each is divided by its largest absolute value.

    The four parts are the paper's. Raster, spots, steps, the scaling, and that greedy choices go by the
    absolute change (so that evidence against a match counts as well) are ours: we have not verified the
    paper's constants.
    """

    @on_sides
    def attribute(
        self,
        sides: Sides,
        *,
        grid: int = 8,
        sigma: float = 0.75,
        n_steps: int = 4,
        perturbations_per_eval: BatchSize = None,
    ) -> tuple[Tensor, ...]:
        """Signed maps of both images, as :class:`~captum_face.PairAttribution` says.

        Args:
            grid: Spots along each side of the image.
            sigma: Standard deviation of a spot as a multiple of the distance between spots.
            n_steps: Spots that the greedy parts take.

        Returns:
            ``(attr_a, attr_b)`` in [-1, 1], one value per pixel. Positive where showing raises the score
            and hiding lowers it. Deterministic.

        Cost: for each image ``2 grid^2 + 3`` forward passes; and for each of its partners
        ``2 (n_steps - 1) grid^2`` more.
        """
        require_positive_int(n_steps, "n_steps")
        spots = gaussian_spots(sides.size, grid, sigma)
        if n_steps > len(spots):
            raise ValueError(f"expected n_steps of at most grid^2 = {len(spots)}, got {n_steps}")
        ends = torch.stack([torch.ones_like(spots[0]), torch.zeros_like(spots[0])])
        single = torch.cat([ends, 1 - spots, spots])
        cover = spots.double().sum(0)
        counts = [1, 1, len(spots), len(spots)]

        def one(side: Side) -> Tensor:
            full, empty, removed, added = side.masked_scores(single).split(counts, dim=1)
            maps = []
            for row, partner in enumerate(side.each()):
                score = partner.mask_scorer()
                drops, gains = full[row] - removed[row], added[row] - empty[row]
                parts = [
                    _blend(drops, spots) / cover,
                    _blend(gains, spots) / cover,
                    _blend(_greedy(score, spots, drops, full[row], n_steps, shown=False), spots),
                    _blend(_greedy(score, spots, gains, empty[row], n_steps, shown=True), spots),
                ]
                maps.append(torch.stack([part / (part.abs().max() or 1) for part in parts]).mean(0))
            return torch.stack(maps)

        return sides.explain(one, len(single) + 2 * (n_steps - 1) * len(spots))


def gaussian_spots(size: tuple[int, int], grid: int, sigma: float) -> Tensor:
    """Gaussians on a raster of ``grid`` by ``grid`` cells, one at the centre of each.

    Args:
        size: ``(H, W)`` of the image.
        grid: Spots along each side.
        sigma: Standard deviation as a multiple of the distance between spots.

    Returns:
        ``(grid ** 2, H, W)`` float in (0, 1], row by row.

    Raises:
        ValueError: a grid below 1 or beyond the pixels, a sigma that is not above 0 or leaves gaps.
    """
    require_positive_int(grid, "grid")
    if grid > min(size):
        raise ValueError(f"expected at most one spot a pixel of {size[0]}x{size[1]} pixels, got grid={grid}")
    require_positive(sigma, "sigma, in distances between spots,")
    profiles = []
    for side in size:
        pitch = side / grid
        centres = (torch.arange(grid, dtype=torch.float32) + 0.5) * pitch - 0.5
        offsets = (torch.arange(side) - centres[:, None]) / (sigma * pitch)
        profiles.append((-0.5 * offsets.square()).exp())
    spots = torch.einsum("ih,jw->ijhw", *profiles).flatten(0, 1)
    # Far from its centre a narrow Gaussian is rounded to zero.
    if bool((spots.sum(0) < 1e-6).any()):
        raise ValueError(f"expected spots that reach every pixel, got gaps at sigma={sigma!r}; enlarge it")
    return spots


def _blend(values: Tensor, spots: Tensor) -> Tensor:
    return torch.einsum("n,nhw->hw", values.double(), spots.double())


def _greedy(
    score: Callable[[Tensor], Tensor],
    spots: Tensor,
    change: Tensor,
    current: Tensor,
    n_steps: int,
    *,
    shown: bool,
) -> Tensor:
    """What each spot brought when it was taken, ``(n,)``; 0 for those that were not.

    Args:
        score: From masks ``(n, H, W)`` to scores ``(1, n)``.
        spots: ``(n, H, W)``.
        change: ``(n,)``: what each spot brings alone, from which the first is chosen.
        current: ``(1,)``: the score before any step.
        n_steps: Spots to take.
        shown: Spots are shown on an empty image, not hidden in the whole one.
    """
    values = torch.zeros_like(change)
    free = torch.ones(len(spots), dtype=torch.bool)
    rest = torch.ones_like(spots[0])  # what the spots taken leave
    sign = 1 if shown else -1
    for step in range(n_steps):
        if step:
            left = rest * (1 - spots)
            change = sign * (score(1 - left if shown else left)[0] - current)
        best = int(change.abs().where(free, -1).argmax())
        values[best] = change[best]
        current = current + sign * change[best]
        rest = rest * (1 - spots[best])
        free[best] = False
    return values
