"""BatchNorm folded into the linear layers before or after it."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, fx, nn

from captum_face.lrp._layers import BiasMapConv2d, Reshape

__all__ = ["fold_batch_norms"]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def fold_batch_norms(module: fx.GraphModule) -> None:
    """Folds every BatchNorm of a rewritten graph into its linear neighbour, in order of execution.

    A BatchNorm in eval mode is :math:`s x + t` for each channel. After a linear layer :math:`W x + b` it
    goes into that layer, :math:`(s W) x + (s b + t)`. Before one it goes into all layers that use it,
    :math:`(W s) x + (W t + b)`, where :math:`W t` is computed by the layer itself: with padding it is less at
    the border. A BatchNorm with a nonlinear layer on either side stays: its relevance passes.
    """
    for node in list(module.graph.nodes):
        layer = _layer(module, node) if node.op == "call_module" else None
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and not _fold_back(module, node):
            _fold_forward(module, node)
    module.graph.lint()
    module.recompile()
    module.delete_all_unused_submodules()


def _fold_back(module: fx.GraphModule, node: fx.Node) -> bool:
    before = node.args[0]
    if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) != 1:
        return False
    layer = _layer(module, before)
    if not isinstance(layer, (nn.Linear, *_CONVOLUTIONS)):
        return False
    scale, shift = _affine(_layer(module, node))
    bias = 0 if layer.bias is None else layer.bias
    if isinstance(layer, BiasMapConv2d):
        layer.bias = _frozen(bias * scale[:, None, None] + shift[:, None, None])
    else:
        layer.bias = _frozen(bias * scale + shift)
    layer.weight = _frozen(layer.weight * scale.reshape(-1, *[1] * (layer.weight.ndim - 1)))
    before.meta["source"] = node.meta["source"]  # gives now what the BatchNorm gave
    _remove(module, node)
    return True


def _fold_forward(module: fx.GraphModule, node: fx.Node) -> bool:
    consumers = list(_consumers(module, node))
    shape = node.meta["shape"]
    scale, shift = (
        v.reshape(1, -1, *[1] * (len(shape) - 2)).expand(1, *shape[1:]) for v in _affine(_layer(module, node))
    )
    folds: list[tuple[fx.Node, Tensor, Tensor]] = []
    for consumer in consumers:
        if consumer is None:
            return False
        user, reshapes = consumer
        layer, s, t = _layer(module, user), scale, shift
        for reshape in reshapes:
            s, t = reshape(s), reshape(t)
        if s.ndim != (2 if isinstance(layer, nn.Linear) else 4) or (s.ndim == 4 and reshapes):
            return False
        folds.append((user, s, t))
    for user, s, t in folds:
        layer = _layer(module, user)
        constant = layer(t)[0]  # with the layer's own bias
        if isinstance(layer, nn.Linear):
            layer.weight = _frozen(layer.weight * s)
            layer.bias = _frozen(constant)
        elif isinstance(layer, nn.Conv2d):
            channels = s[0, :, 0, 0].reshape(layer.groups, 1, -1)
            channels = channels.expand(-1, layer.out_channels // layer.groups, -1).flatten(0, 1)
            layer.weight = _frozen(layer.weight * channels[..., None, None])
            if isinstance(layer.padding, tuple) and not any(layer.padding):
                layer.bias = _frozen(constant[:, 0, 0])
            else:
                layer = BiasMapConv2d.of(layer)
                layer.bias = _frozen(constant)
                module.add_submodule(str(user.target), layer)
    _remove(module, node)
    return bool(folds)


def _consumers(module: fx.GraphModule, node: fx.Node) -> Iterator[tuple[fx.Node, list[nn.Module]] | None]:
    """The linear layers' nodes that use a node, with the reshapes on the way; None for any other use."""
    for user in node.users:
        layer = _layer(module, user) if user.op == "call_module" else None
        if isinstance(layer, Reshape):
            user.meta.pop("source", None)  # what it hands on is not scaled any more
            for found in _consumers(module, user):
                yield found and (found[0], [layer, *found[1]])
        elif isinstance(layer, nn.Linear) or type(layer) is nn.Conv2d:
            yield user, []
        else:
            yield None


def _affine(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Scale and shift of each channel; a BatchNorm without weights of its own has None for them."""
    assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None  # the others have no rule
    assert variance is not None
    scale = (variance + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -mean * scale
    return scale, shift if norm.bias is None else shift + norm.bias


def _layer(module: fx.GraphModule, node: fx.Node) -> nn.Module:
    return module.get_submodule(str(node.target))


def _frozen(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value.detach(), requires_grad=False)


def _remove(module: fx.GraphModule, node: fx.Node) -> None:
    (source,) = node.all_input_nodes
    node.replace_all_uses_with(source)
    module.graph.erase_node(node)
