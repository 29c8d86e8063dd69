"""Slow relevance propagation by explicit matrices, independent of hooks, graphs and folding."""

from __future__ import annotations

import torch
from torch import Tensor


def matrix(affine, shape):
    """An affine function of one item of a shape as ``(matrix, bias)``, from its values at unit vectors."""
    size = torch.Size(shape).numel()
    with torch.no_grad():
        bias = affine(torch.zeros(1, *shape, dtype=torch.float64)).flatten()
        units = torch.eye(size, dtype=torch.float64).reshape(size, *shape)
        columns = torch.stack([affine(unit[None]).flatten() - bias for unit in units], 1)
    return columns, bias


def signed(weights: Tensor, x: Tensor, relevance: Tensor, gamma: float) -> Tensor:
    """The rule of the default composite, output by output and input by input."""
    result = torch.zeros_like(x)
    for j, row in enumerate(weights.tolist()):
        z = [w * v for w, v in zip(row, x.tolist(), strict=True)]
        total = sum(z)
        side = 1 if total >= 0 else -1
        strong = [value + gamma * value if value * side > 0 else value for value in z]
        if any(z):
            for i, value in enumerate(strong):
                result[i] += value / sum(strong) * relevance[j]
        else:
            connected = [i for i, w in enumerate(row) if w]
            for i in connected:
                result[i] += relevance[j] / len(connected)
    return result


def epsilon(weights: Tensor, x: Tensor, relevance: Tensor) -> Tensor:
    """Bach et al. 2015, eq. 13 without a stabiliser."""
    return x * (weights.T @ (relevance / (weights @ x)))


def flat(weights: Tensor, relevance: Tensor) -> Tensor:
    """Every output's relevance evenly over the inputs that it sees."""
    seen = (weights != 0).double()
    return seen.T @ (relevance / seen.sum(1))
