"""Ranks and rank correlation, row by row."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["average_ranks", "rank_correlations", "spearman"]


def average_ranks(values: Tensor) -> Tensor:
    """Ranks along the last dimension from 1, in double precision; equal values share their mean rank."""
    values = values.contiguous()
    ordered = values.sort(-1).values
    below = torch.searchsorted(ordered, values)
    upto = torch.searchsorted(ordered, values, right=True)
    return (below + upto + 1).double() / 2


def spearman(x: Tensor, y: Tensor) -> Tensor:
    """Spearman's rank correlation of the last dimension, ``(..., n)`` to ``(...)`` in [-1, 1].

    Where ``x`` or ``y`` is constant there is no ranking to compare: 0, as random gives on average.
    """
    # Twice the distance from the mean rank: whole numbers, so that equal rankings give exactly 1.
    n = x.shape[-1]
    first, second = (2 * average_ranks(values) - (n + 1) for values in (x, y))
    spread = (first.square().sum(-1) * second.square().sum(-1)).sqrt()
    return (first * second).sum(-1) / spread.where(spread > 0, 1)


def rank_correlations(values: Tensor) -> Tensor:
    """Spearman's rank correlation of each row with each other, ``(M, n)`` to ``(M, M)``.

    0 with a constant row, as in :func:`spearman`.
    """
    ranks = average_ranks(values)
    centred = ranks - ranks.mean(-1, keepdim=True)
    length = centred.norm(dim=-1, keepdim=True)
    unit = centred / length.where(length > 0, 1)
    return unit @ unit.T
