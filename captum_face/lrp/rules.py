"""The relevance rule of the default composite."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zennit.core import Hook, ParamMod
from zennit.layer import Sum

__all__ = ["Signed"]


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

    def pre_forward(self, module: nn.Module, input: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Runs the layer without a graph: its gradient would be computed in each pass, and not used."""
        self.stored_tensors["source"] = input[0]
        return (input[0].detach(), *input[1:])

    def post_forward(self, module: nn.Module, input: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Puts the rule into the graph where the layer would have been."""
        return _Ruled.apply(self.stored_tensors.pop("source"), output, self, module)

    def forward(self, module: nn.Module, input: tuple[Tensor, ...], output: Tensor) -> None:
        """Remembers what the layer was given; once, where all of the batch is one image."""
        given = input[0].detach()
        first = given[:1]
        self.stored_tensors["input"] = first if torch.equal(given, first.expand_as(given)) else given
        self.stored_tensors.pop("known", None)

    def backward(self, module: nn.Module, grad_input: Any, grad_output: Any) -> tuple[Tensor]:
        """The relevance of the layer's inputs from that of its outputs."""
        relevance = grad_output[0]
        given = self.stored_tensors["input"]
        shape = (len(relevance), *given.shape[1:])
        with torch.set_grad_enabled(relevance.requires_grad):  # by what relevance starts with
            weight = getattr(module, "weight", None)
            if not self.active:  # what zennit's Composite.inactive() asks for
                return (_transposed(module, weight, shape, relevance),)
            if "known" not in self.stored_tensors:  # the same for all that goes down the same graph
                with torch.no_grad():
                    self.stored_tensors["known"] = self._prepared(module, given)
            plain, size, idle = self.stored_tensors["known"]
            result = given * _transposed(module, weight, shape, relevance * plain)
            result += given.abs() * _transposed(module, _absolute(weight), shape, relevance * size)
            if idle is not None:
                result += _transposed(module, _ones(weight), shape, relevance * idle)
        return (result,)

    def _prepared(self, module: nn.Module, given: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        r"""What the relevance of each output is multiplied by for its inputs.

        A contribution counts :math:`c + d` times where it has the sign :math:`s` of the sum and
        :math:`c - d` times where it has not, which is :math:`c z_i + d s |z_i|` for both: two passes along
        the weights and along their absolute values, whatever the signs.

        Returns:
            What the contributions are multiplied by, what their absolute values are, and what goes to
            every input alike.
        """
        weight = getattr(module, "weight", None)
        total = _apply(module, weight, given)
        size = _apply(module, _absolute(weight), given.abs())
        if self.biases:
            bias = module.forward(torch.zeros_like(given))
            total, size = total + bias, size + bias.abs()
        one_place = total.ndim == 2 or total[0, 0].numel() == 1
        gamma = self.head if one_place and self.head is not None else self.gamma
        c, d = (0.5, 0.5) if math.isinf(gamma) else (1 + gamma / 2, gamma / 2)
        signed = d * torch.where(total >= 0, 1.0, -1.0).to(given)
        denominator = c * total + signed * size
        # below this, relevance / denominator could overflow
        silent = denominator.abs() <= torch.finfo(given.dtype).eps ** 4
        scale = torch.where(silent, 0.0, 1 / torch.where(silent, 1.0, denominator))
        idle = None
        if silent.any():
            seen = _apply(module, _ones(weight), torch.ones_like(given))
            idle = silent / torch.where(seen == 0, 1.0, seen)  # none where there is only padding
        return c * scale, signed * scale, idle


class _Ruled(torch.autograd.Function):
    """A layer's output, whose gradient is what the layer's rule says."""

    @staticmethod
    def forward(ctx: Any, source: Tensor, output: Tensor, rule: Signed, module: nn.Module) -> Tensor:
        ctx.rule, ctx.module = rule, module
        return output.clone()  # as an activation may work in place on it

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor, None, None, None]:
        return (*ctx.rule.backward(ctx.module, None, (relevance,)), None, None, None)


def _absolute(weight: Tensor | None) -> Tensor | None:
    """Absolute weights; sums and means have none of their own, and theirs are positive."""
    return None if weight is None else weight.abs()


def _ones(weight: Tensor | None) -> Tensor | None:
    return None if weight is None else torch.ones_like(weight)


def _apply(module: nn.Module, weight: Tensor | None, values: Tensor) -> Tensor:
    """The layer without its bias and with other weights."""
    with ParamMod(lambda own, name: weight if name == "weight" else torch.zeros_like(own))(module):
        return module.forward(values)


def _transposed(module: nn.Module, weight: Tensor | None, shape: tuple[int, ...], share: Tensor) -> Tensor:
    """From outputs back to inputs of a shape, along the same weights."""
    if isinstance(module, Sum):
        return share.unsqueeze(module.dim).expand(shape)
    if isinstance(module, nn.Linear) and weight is not None:
        return share @ weight
    if isinstance(module, nn.Conv2d) and weight is not None and _is_plain(module):
        return _transposed_conv2d(module, weight, shape, share)
    with torch.enable_grad():
        start = share.new_zeros(shape).requires_grad_()
        (result,) = torch.autograd.grad(
            _apply(module, weight, start), start, share, create_graph=share.requires_grad
        )
    return result


def _transposed_conv2d(module: nn.Conv2d, weight: Tensor, shape: tuple[int, ...], share: Tensor) -> Tensor:
    """What ``torch.nn.grad.conv2d_input`` gives, which is slower for depthwise and 1x1 ones on a CPU."""
    step, padding, dilation = module.stride, module.padding, module.dilation
    assert not isinstance(padding, str)
    point = module.groups == 1 and module.kernel_size == step == (1, 1) and not any(padding)
    if point and share.is_contiguous(memory_format=torch.channels_last):
        return (share.movedim(1, -1) @ weight[:, :, 0, 0]).movedim(-1, 1)
    left = [  # rows and columns that no step reaches any more
        shape[i + 2] - ((share.shape[i + 2] - 1) * step[i] - 2 * int(padding[i]) + dilation[i] * (k - 1) + 1)
        for i, k in enumerate(module.kernel_size)
    ]
    return F.conv_transpose2d(share, weight, None, step, padding, left, module.groups, dilation)


def _is_plain(module: nn.Conv2d) -> bool:
    return not isinstance(module.padding, str) and module.padding_mode == "zeros"
