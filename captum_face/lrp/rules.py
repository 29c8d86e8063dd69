"""The relevance rule of the default composite."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.grad import conv2d_input
from zennit.core import Hook, ParamMod

__all__ = ["Signed"]


class _Part(NamedTuple):
    """Inputs of one sign through weights of one sign: contributions that are all of one sign."""

    values: Tensor
    weight: Tensor | None
    supports: bool  # the contributions are positive


class Signed(Hook):
    r"""Generalised gamma rule for inputs and outputs of any sign, which conserves all relevance.

    An output :math:`z = z^+ + z^-` is the sum of its inputs' contributions :math:`z_i = w_i x_i`, positive
    and negative ones. Those that have the sign of :math:`z` count :math:`1 + \gamma` times:

    .. math::
        R_i = \frac{z_i + \gamma [z_i z > 0] z_i}{z + \gamma z^{\operatorname{sign} z}} R .

    As :math:`|z^{\operatorname{sign} z}|` is at least half of what went into z, the denominator cannot
    cancel, and no more than :math:`1 + 2 / \gamma` times the absolute relevance comes out of a layer than
    went in. :math:`\gamma = \infty` lets only contributions of the sign of z have relevance, and then the
    absolute relevance never grows.

    Three things differ from Zennit's ``Gamma``. The sign is that of the sum without the bias, if biases
    take no relevance: with the bias, a unit that is positive because of its bias alone has a denominator
    that can vanish. An output all of whose inputs are silent is what its bias makes it; its relevance is
    spread evenly over the inputs, the places where something could have been and was not. And layers
    that see all of the image at once can have a gamma of their own.

    Source: Montavon et al., *Layer-wise relevance propagation: an overview*, 2019 (gamma rule), and
    Andéol et al., *Learning domain invariant representations by joint Wasserstein distance minimization*,
    2021 (for all signs), with the changes named above.

    Args:
        gamma: At least 0; ``math.inf`` for the limit. 0 is the epsilon rule with an epsilon of 0.
        head: The gamma of layers with one place, linear layers and convolutions down to one pixel. None:
            ``gamma`` as well.
        biases: Whether biases take their share, which is then lost.
    """

    def __init__(self, gamma: float, head: float | None = None, biases: bool = False) -> None:
        super().__init__()
        self.gamma, self.head, self.biases = gamma, head, biases

    def copy(self) -> Signed:
        """A hook of the same options for another module."""
        return Signed(self.gamma, self.head, self.biases)

    def forward(self, module: nn.Module, input: tuple[Tensor, ...], output: Tensor) -> None:
        """Remembers what the layer was given; once, where all of the batch is one image."""
        given = input[0].detach()
        first = given[:1]
        self.stored_tensors["input"] = first if torch.equal(given, first.expand_as(given)) else given
        self.stored_tensors.pop("factors", None)

    def backward(self, module: nn.Module, grad_input: Any, grad_output: Any) -> tuple[Tensor]:
        """The relevance of the layer's inputs from that of its outputs."""
        relevance = grad_output[0]
        given = self.stored_tensors["input"]
        with torch.no_grad():
            if "factors" not in self.stored_tensors:  # the same for all that goes down the same graph
                self.stored_tensors["factors"] = self._factors(module, given)
            supporting, opposing, idle = self.stored_tensors["factors"]
            result = torch.zeros_like(grad_input[0])
            for part in _parts(module, given):
                share = relevance * (supporting if part.supports else opposing)
                result += part.values * _transposed(module, part.weight, result, share)
            if idle is not None:
                result += _transposed(module, _ones(module), result, relevance * idle)
        return (result,)

    def _factors(self, module: nn.Module, given: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """What relevance is multiplied by for supporting, opposing and for silent inputs."""
        sums = {True: torch.zeros(()), False: torch.zeros(())}
        for part in _parts(module, given):
            sums[part.supports] = sums[part.supports] + _apply(module, part.weight, part.values)
        if self.biases:
            bias = module.forward(torch.zeros_like(given))
            sums = {True: sums[True] + bias.clamp(min=0), False: sums[False] + bias.clamp(max=0)}
        positive = (sums[True] + sums[False] >= 0).to(given)
        one_place = positive.ndim == 2 or positive[0, 0].numel() == 1
        gamma = self.head if one_place and self.head is not None else self.gamma
        strong, weak = (1.0, 0.0) if math.isinf(gamma) else (1.0 + gamma, 1.0)
        supporting = weak + (strong - weak) * positive
        opposing = strong + (weak - strong) * positive
        total = supporting * sums[True] + opposing * sums[False]
        # below this, relevance / total could overflow
        silent = total.abs() <= torch.finfo(given.dtype).eps ** 4
        scale = torch.where(silent, 0.0, 1 / torch.where(silent, 1.0, total))
        idle = None
        if silent.any():
            idle = silent / _apply(module, _ones(module), torch.ones_like(given))
        return supporting * scale, opposing * scale, idle


def _parts(module: nn.Module, given: Tensor) -> Iterator[_Part]:
    """The contributions of a layer by their sign; after a ReLU there are no negative inputs."""
    weight = getattr(module, "weight", None)
    signs = (True, False) if bool((given < 0).any()) else (True,)
    for positive in signs:
        values = given.clamp(min=0) if positive else given.clamp(max=0)
        if weight is None:  # a sum or a mean, whose weights are positive
            yield _Part(values, None, positive)
        else:
            yield _Part(values, weight.clamp(min=0), positive)
            yield _Part(values, weight.clamp(max=0), not positive)


def _ones(module: nn.Module) -> Tensor | None:
    weight = getattr(module, "weight", None)
    return None if weight is None else torch.ones_like(weight)


def _apply(module: nn.Module, weight: Tensor | None, values: Tensor) -> Tensor:
    """The layer without its bias and with other weights."""
    with ParamMod(lambda own, name: weight if name == "weight" else torch.zeros_like(own))(module):
        return module.forward(values)


def _transposed(module: nn.Module, weight: Tensor | None, like: Tensor, share: Tensor) -> Tensor:
    """From outputs back to inputs, along the same weights."""
    if isinstance(module, nn.Linear) and weight is not None:
        return share @ weight
    if isinstance(module, nn.Conv2d) and weight is not None and _is_plain(module):
        options = module.stride, module.padding, module.dilation, module.groups
        return conv2d_input(like.shape, weight, share, *options)
    with torch.enable_grad():
        start = torch.zeros_like(like).requires_grad_()
        (result,) = torch.autograd.grad(_apply(module, weight, start), start, share)
    return result


def _is_plain(module: nn.Conv2d) -> bool:
    return not isinstance(module.padding, str) and module.padding_mode == "zeros"
