"""Where a canonized model stops being the model it was made from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from zennit.canonizers import Canonizer

from captum_face.lrp._tracing import Trace

__all__ = ["first_departure", "first_difference"]


def first_difference(module: fx.GraphModule, tolerance: float = 1e-3) -> str | None:
    """The first layer of a canonized model that does not give what the original gave for the example."""
    traced: Trace = module.meta["trace"]
    values: dict[fx.Node, Any] = {}

    class Compare(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            values[n] = super().run_node(n)
            return values[n]

    example = next(iter(traced.values.values()))
    with torch.no_grad():
        Compare(module).run(example)
    for node, value in values.items():
        source = node.meta.get("source")
        expected = traced.values.get(source) if source is not None else None
        if not isinstance(value, Tensor) or not isinstance(expected, Tensor):
            continue
        if value.shape == expected.shape and not (value - expected).norm() <= tolerance * expected.norm():
            return str(node.target)
    return None


def first_departure(model: nn.Module, given: Tensor, canonizers: Sequence[Canonizer]) -> str | None:
    """The first layer from which on nothing is as it was, once Zennit canonizers have changed the model.

    Layers whose outputs differ for a while are as they should be: a convolution that has taken in the
    BatchNorm after it.
    """
    before = _outputs(model, given)
    handles: list[Any] = []
    try:
        for canonizer in canonizers:
            handles += canonizer.apply(model)
        after = _outputs(model, given)
    finally:
        for handle in reversed(handles):
            handle.remove()
    departed = None
    for name, value in before.items():
        other = after.get(name)
        if other is None or other.shape != value.shape:
            continue
        if (value - other).norm() <= 1e-3 * value.norm():
            departed = None
        elif departed is None:
            departed = name
    return departed


def _outputs(model: nn.Module, given: Tensor) -> dict[str, Tensor]:
    """What each layer gives, in order of execution."""
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                outputs[name] = output.detach().clone()

        return hook

    leaves = [(name, layer) for name, layer in model.named_modules() if not [*layer.children()]]
    handles = [layer.register_forward_hook(keep(name)) for name, layer in leaves]
    try:
        with torch.no_grad():
            model(given)
    finally:
        for handle in handles:
            handle.remove()
    return outputs
