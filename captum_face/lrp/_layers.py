"""Layers that canonization puts where a model has something without a rule of its own."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from zennit.layer import Sum

__all__ = [
    "BiasMapConv2d",
    "ConstantOp",
    "LayoutSum",
    "Rescale",
    "Reshape",
    "Unruled",
    "repeated",
    "side_by_side",
]


class BiasMapConv2d(nn.Conv2d):
    """A convolution whose bias ``(C, H, W)`` has a value for each place.

    That is what a BatchNorm before a padded convolution folds into: its shift does not reach the padding,
    so that it adds less at the border.
    """

    @classmethod
    def of(cls, layer: nn.Conv2d) -> BiasMapConv2d:
        """A convolution like another, which shares its tensors."""
        names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups")
        sizes = {name: getattr(layer, name) for name in (*names, "padding_mode")}
        same = cls(**sizes, bias=False, device="meta")
        same.weight, same.bias = layer.weight, layer.bias
        return same.train(layer.training)

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.weight, None) + self.bias


class ConstantOp(nn.Module):
    """One tensor combined with a constant, element by element: ``x - mean``, ``x * scale``.

    All that comes out comes from ``x``; the constant is a bias or a unit of measure.
    """

    constant: Tensor

    def __init__(self, function: Callable[..., Tensor], constant: Tensor | float, first: bool) -> None:
        super().__init__()
        self.function, self.first = function, first
        self.register_buffer("constant", torch.as_tensor(constant), persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        constant = self.constant.to(input.device)
        return self.function(input, constant) if self.first else self.function(constant, input)

    def extra_repr(self) -> str:
        return f"{self.function.__name__}, constant of shape {tuple(self.constant.shape)}"


class LayoutSum(Sum):
    """Zennit's ``Sum`` with the memory layout of what it adds, on which the speed of convolutions depends."""

    def forward(self, input: Tensor) -> Tensor:
        return functools.reduce(torch.add, input.unbind(self.dim))


class Rescale(nn.Module):
    """Embeddings ``(N, D)`` scaled to unit length; the length is a factor common to all channels."""

    def forward(self, input: Tensor) -> Tensor:
        return nn.functional.normalize(input)


class Reshape(nn.Module):
    """Everything but the batch in another shape, whatever the batch.

    Args:
        shape: Without the batch.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = tuple(shape)

    def forward(self, input: Tensor) -> Tensor:
        return input.reshape(len(input), *self.shape)

    def extra_repr(self) -> str:
        return f"{self.shape}"


class Unruled(nn.Module):
    """A layer without a rule, which relevance passes by the gradient.

    It is kept out of sight of composites, which would give rules to parts of it.

    Args:
        layer: Takes and gives what it likes.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.hidden = (layer,)  # a tuple: no submodule

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.hidden[0](*args, **kwargs)

    def extra_repr(self) -> str:
        return repr(self.hidden[0])


def repeated(constant: Tensor, like: Tensor) -> Tensor:
    """A constant ``(1, ...)`` once for each item of the batch of ``like``."""
    return constant.expand(len(like), *constant.shape[1:])


def side_by_side(tensors: Sequence[Tensor]) -> Tensor:
    """``torch.stack(tensors, -1)`` in the memory layout of the tensors, for :class:`LayoutSum`."""
    return torch.cat(list(tensors), 1).unflatten(1, (len(tensors), -1)).movedim(1, -1)
