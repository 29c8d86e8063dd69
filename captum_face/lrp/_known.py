"""Which operations LRP knows, and the layers that functional ones are written as."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zennit import types

from captum_face.lrp._layers import ConstantOp, Reshape

__all__ = ["as_layers", "is_identity", "is_layer", "is_routing", "is_unit_length"]

# With rules in every composite.
_RULED = (types.Linear, types.Activation, types.AvgPool)
# The gradient is the rule: it sends each value's relevance to the one value that it is.
_ROUTING_LAYERS = (
    types.MaxPool,
    nn.ZeroPad2d,
    nn.ConstantPad2d,
    nn.ReflectionPad2d,
    nn.ReplicationPad2d,
    nn.PixelShuffle,
    nn.PixelUnshuffle,
    nn.ChannelShuffle,
)
_ROUTING = {
    "adaptive_max_pool2d", "cat", "channel_shuffle", "chunk", "concat", "constant_pad_nd", "contiguous",
    "double", "flip", "float", "getitem", "max_pool2d", "movedim", "narrow", "pad", "permute",
    "pixel_shuffle", "pixel_unshuffle", "select", "split", "stack", "t", "to", "transpose", "type",
    "type_as", "unbind",
}  # fmt: skip
# Nothing happens here, if the numbers say so as well.
_IDENTITIES = {
    "alpha_dropout", "clone", "contiguous", "dropout", "dropout1d", "dropout2d", "dropout3d",
    "feature_alpha_dropout", "feature_dropout", "to", "type_as",
}  # fmt: skip
_RESHAPES = {"flatten", "reshape", "reshape_as", "squeeze", "unflatten", "unsqueeze", "view", "view_as"}
_ARITHMETIC: dict[str, Callable[..., Tensor]] = {
    "add": torch.add,
    "iadd": torch.add,
    "sub": torch.sub,
    "isub": torch.sub,
    "mul": torch.mul,
    "imul": torch.mul,
    "div": torch.div,
    "truediv": torch.div,
    "itruediv": torch.div,
}


def is_layer(module: nn.Module) -> bool:
    """Whether a module of ``torch.nn`` can stay as it is: it has a rule, or its gradient is one."""
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return module.running_mean is not None  # otherwise it normalises by the batch at hand
    if isinstance(module, nn.MultiheadAttention):  # which zennit counts as an activation
        return False
    return isinstance(module, (*_RULED, *_ROUTING_LAYERS))


def is_identity(kind: str, given: Tensor, result: Any) -> bool:
    """Whether an operation hands on what it is given: dropout in eval mode, copies."""
    same = isinstance(result, Tensor) and result.dtype == given.dtype and result.shape == given.shape
    return kind in _IDENTITIES and same and bool(torch.equal(given, result))


def is_routing(kind: str, tensors: int) -> bool:
    """Whether the gradient of a function of so many traced tensors is its rule."""
    if kind in ("max", "maximum"):  # max-feature-map layers; of one tensor it is a maximum over dimensions
        return tensors == 2
    return kind in _ROUTING


def is_unit_length(given: Any, result: Any) -> bool:
    """Whether an operation scales embeddings to unit length, however that is written."""
    if not isinstance(given, Tensor) or not isinstance(result, Tensor) or given.ndim < 2:
        return False
    if given[0].numel() != given.shape[1]:  # (N, D, 1, 1) is one as well
        return False
    return given.shape == result.shape and bool(torch.allclose(F.normalize(given), result))


def as_layers(
    kind: str, given: Tensor, result: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> list[nn.Module] | None:
    """A function of one traced tensor as a chain of layers, or None if there is none.

    Args:
        kind: Name of the function.
        given: The traced tensor for the example.
        result: What the function gave for it.
        args: All positional arguments, ``given`` among them, constants as their values.
        kwargs: The same by name.
    """
    if kind in _RESHAPES and len(given) == len(result) == 1:
        return [Reshape(result.shape[1:])]
    if kind in _ARITHMETIC:
        return _constant_op(_ARITHMETIC[kind], given, result, args, kwargs)
    if not args and "input" in kwargs:
        args, kwargs = (kwargs["input"],), {name: v for name, v in kwargs.items() if name != "input"}
    if kind not in _FUNCTIONS or not args or args[0] is not given:
        return None
    try:
        return _FUNCTIONS[kind](*args, **kwargs)
    except (TypeError, ValueError, AssertionError, RuntimeError):  # options that the layer does not have
        return None


def _constant_op(
    function: Callable[..., Tensor],
    given: Tensor,
    result: Tensor,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> list[nn.Module] | None:
    if len(args) != 2 or any(value != 1 for value in kwargs.values()) or result.shape != given.shape:
        return None
    first = args[0] is given
    if function is torch.div and not first:
        return None  # 1 / x
    constant = args[1] if first else args[0]
    return [ConstantOp(function, constant, first)] if isinstance(constant, (Tensor, int, float)) else None


def _filled(layer: nn.Module, **tensors: Tensor | None) -> list[nn.Module]:
    for name, value in tensors.items():
        if value is not None:
            value = nn.Parameter(value.detach().clone(), requires_grad=False)
        setattr(layer, name, value)
    return [layer]


def _clamp(x: Tensor, min: Any = None, max: Any = None) -> list[nn.Module] | None:
    limits = [float("inf") if limit is None else float(limit) for limit in (min, max)]
    if min is not None and limits[0] == 0 and max is None:
        return [nn.ReLU()]
    return [nn.Hardtanh(-limits[0] if min is None else limits[0], limits[1])]


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> list[nn.Module]:
    return _filled(nn.Linear(weight.shape[1], weight.shape[0], device="meta"), weight=weight, bias=bias)


def _conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> list[nn.Module]:
    inputs, outputs, kernel = weight.shape[1] * groups, len(weight), (weight.shape[2], weight.shape[3])
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    options = {name: tuple(o) if isinstance(o, list) else o for name, o in options.items()}
    return _filled(nn.Conv2d(inputs, outputs, kernel, **options, device="meta"), weight=weight, bias=bias)


def _batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> list[nn.Module] | None:
    if training or running_mean is None or running_var is None or x.ndim not in (2, 4):
        return None
    kind = nn.BatchNorm2d if x.ndim == 4 else nn.BatchNorm1d
    layer = kind(len(running_mean), eps, affine=False).eval()
    layer.running_mean, layer.running_var = running_mean.detach().clone(), running_var.detach().clone()
    return _filled(layer, weight=weight, bias=bias)


def _mean(x: Tensor, dim: Any = None, keepdim: bool = False) -> list[nn.Module] | None:
    """A mean over places: rows, columns or both, or those of flattened maps."""
    dims = {d % x.ndim for d in (dim if isinstance(dim, (tuple, list)) else (dim,))}
    if x.ndim not in (3, 4) or dims & {0, 1}:
        return None
    sizes = [1 if d in dims else x.shape[d] for d in range(2, x.ndim)]
    pool = nn.AdaptiveAvgPool1d(sizes[0]) if x.ndim == 3 else nn.AdaptiveAvgPool2d(tuple(sizes))
    kept = [x.shape[d] for d in range(1, x.ndim) if d not in dims]
    return [pool] if keepdim else [pool, Reshape(kept)]


_FUNCTIONS: dict[str, Callable[..., list[nn.Module] | None]] = {
    "relu": lambda x, inplace=False: [nn.ReLU()],
    "relu6": lambda x, inplace=False: [nn.ReLU6()],
    "leaky_relu": lambda x, negative_slope=0.01, inplace=False: [nn.LeakyReLU(negative_slope)],
    "prelu": lambda x, weight: _filled(nn.PReLU(weight.numel(), device="meta"), weight=weight.reshape(-1)),
    "hardtanh": lambda x, low=-1.0, high=1.0, inplace=False: [nn.Hardtanh(low, high)],
    "clamp": _clamp,
    "clip": _clamp,
    "elu": lambda x, alpha=1.0, inplace=False: [nn.ELU(alpha)],
    "silu": lambda x, inplace=False: [nn.SiLU()],
    "gelu": lambda x, approximate="none": [nn.GELU(approximate)],
    "hardswish": lambda x, inplace=False: [nn.Hardswish()],
    "sigmoid": lambda x: [nn.Sigmoid()],
    "tanh": lambda x: [nn.Tanh()],
    "softplus": lambda x, beta=1.0, threshold=20.0: [nn.Softplus(beta, threshold)],
    "linear": _linear,
    "conv2d": _conv2d,
    "batch_norm": _batch_norm,
    "avg_pool2d": lambda x, *args, **kwargs: [nn.AvgPool2d(*args, **kwargs)],
    "adaptive_avg_pool2d": lambda x, output_size: [nn.AdaptiveAvgPool2d(output_size)],
    "mean": _mean,
}
