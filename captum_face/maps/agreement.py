"""Do several methods see the same? Rank correlation of their smoothed maps, beside that of noise."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from captum_face.maps.ranks import rank_correlations
from captum_face.maps.signed import pixel_map, smooth

__all__ = ["AGREEMENT_SMOOTHING", "Agreement", "agreement"]

#: Standard deviation of the Gaussian that smooths maps before they are compared, as a share of the shorter
#: side: 5 of 112 pixels, as FGGB's maps were published.
AGREEMENT_SMOOTHING = 5 / 112
_RANDOM_MAPS = 40  # 780 pairs of them say how far noise spreads
_QUANTILE = 1.6448536269514722  # of the standard normal distribution, which 5 % exceed


class Agreement(NamedTuple):
    """How much the maps of several methods agree; made by :func:`agreement`."""

    value: float  #: mean rank correlation between methods, in [-1, 1]; 1 is the same order of pixels
    noise: float  #: what as many random maps of the same smoothing exceed in 1 of 20 cases; their mean is 0
    n_methods: int  #: how many methods are compared
    correlations: tuple[tuple[float, ...], ...]  #: of each method with each other, the mean of both images

    def __str__(self) -> str:
        said = (
            f"agreement of {self.n_methods} methods {self.value:.2f} (1: same order of pixels, 0: unrelated; "
            f"noise stays below {self.noise:.2f})"
        )
        return said if self.value > self.noise else f"{said}: no more than noise, rely on none of these maps"


def agreement(attributions: Sequence[tuple[Tensor, Tensor]]) -> Agreement | None:
    """The mean rank correlation between several methods' smoothed maps of one pair.

    Each map (the mean over colour) is smoothed by a Gaussian of
    :data:`~captum_face.maps.agreement.AGREEMENT_SMOOTHING` of the shorter side, as methods differ in how fine
    they are. Spearman's rank correlation over all pixels is taken between each two methods, for both images,
    and the mean of these is the figure. It does not depend on the methods' units. Smooth random maps are
    correlated by chance; how far their figure reaches is given beside it, from 40 maps of white noise under
    the same Gaussian.

    A low figure means that the methods see different things in the pair: at most one of them can be right
    about what the model looks at, and a single map should not be relied upon. A high one does not prove the
    maps right, as methods share assumptions.

    Args:
        attributions: For each method the attributions of both images, ``(1, C, H, W)`` each.

    Returns:
        The :class:`Agreement`; None for fewer than two methods. A constant map has no order, and its
        correlations are 0.

    Raises:
        ValueError: attributions of different sizes.

    Example::

        >>> maps = torch.rand(2, 3, 1, 1, 40, 40, generator=torch.Generator().manual_seed(0))
        >>> found = agreement([tuple(maps[:, i]) for i in (0, 1, 2)])
        >>> abs(found.value) < 2 * found.noise, agreement([tuple(maps[:, 0])] * 2).value
        (True, 1.0)
    """
    if len(attributions) < 2:
        return None
    sides = [[pixel_map(of_method[side])[0] for of_method in attributions] for side in (0, 1)]
    if any(len({signed.shape for signed in side}) > 1 for side in sides):
        raise ValueError("expected attributions of one size from all methods, got different ones")
    n = len(attributions)
    above = torch.triu_indices(n, n, 1)
    tables = [rank_correlations(_smoothed(torch.stack(side)).flatten(1)) for side in sides]
    mean = torch.stack(tables).mean(0).clamp(-1, 1)
    # Correlations between independent maps are uncorrelated, also where two share a map.
    spread = sum(_spread_of_noise(*side[0].shape) ** 2 for side in sides) ** 0.5 / 2
    return Agreement(
        value=float(mean[above[0], above[1]].mean()),
        noise=_QUANTILE * spread / above.shape[1] ** 0.5,
        n_methods=n,
        correlations=tuple(map(tuple, mean.tolist())),
    )


def _smoothed(maps: Tensor) -> Tensor:
    return smooth(maps.detach().cpu().double(), AGREEMENT_SMOOTHING * min(maps.shape[-2:]))


@functools.lru_cache(maxsize=16)
def _spread_of_noise(height: int, width: int) -> float:
    """Standard deviation of the rank correlation between two random maps of this size."""
    noise = torch.randn(
        _RANDOM_MAPS, height, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    table = rank_correlations(_smoothed(noise).flatten(1))
    above = torch.triu_indices(len(table), len(table), 1)
    return float(table[above[0], above[1]].square().mean().sqrt())
