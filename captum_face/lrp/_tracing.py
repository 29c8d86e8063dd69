"""The operations of a model in their order of execution, as a :class:`torch.fx.Graph`."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn

__all__ = ["Trace", "drop_unused", "trace"]


class Trace:
    """What a model did with an example.

    Args:
        root: The traced module, which owns what the graph refers to.
        graph: One node for each operation on tensors that depend on the input.
        values: What each node gave for the example.
    """

    def __init__(self, root: nn.Module, graph: fx.Graph, values: dict[fx.Node, Any]) -> None:
        self.root, self.graph, self.values = root, graph, values
        self.untouched: set[fx.Node] = set()  #: which handed back the very tensor that they were given

    def value_of(self, node: fx.Node) -> Any:
        """What a node gave, constants included, which enter a graph without being run."""
        if node not in self.values:
            self.values[node] = operator.attrgetter(str(node.target))(self.root)
        return self.values[node]


def trace(model: nn.Module, example: Tensor) -> Trace:
    """Traces ``model`` along the path that it takes for ``example``, operation by operation.

    Unlike :func:`torch.fx.symbolic_trace` this runs the example along, so that checks of shapes and other
    branches are taken as the model takes them for an image of this kind. What hangs on the values of the
    image itself is frozen as it was for the example.

    Args:
        model: Images to embeddings.
        example: One preprocessed image ``(1, C, H, W)``.

    Returns:
        The trace. Its graph keeps modules of ``torch.nn`` whole and sees through all others.

    Raises:
        RuntimeError: the model's code does something that cannot be recorded.
    """
    tracer = _Tracer(model, example)
    try:
        with torch.inference_mode(False), torch.no_grad():
            graph = tracer.trace(model)
    except Exception as error:
        raise RuntimeError(
            f"the embedding model cannot be traced ({type(error).__name__}: {error}). LRP needs to see its "
            "layers in their order of execution: give PairSimilarity the nn.Module itself rather than a "
            "function around it, and keep numpy, .item() and torch.jit out of its forward; or pass "
            "canonizers= of your own, or canonizers=None if the model consists of layers that need none"
        ) from error
    drop_unused(graph)
    tracer.recorded.graph = graph
    return tracer.recorded


def drop_unused(graph: fx.Graph) -> None:
    """Removes what the output does not depend on, in place."""
    for node in reversed(graph.nodes):
        if not node.users and node.op not in ("placeholder", "output"):
            graph.erase_node(node)


class _Proxy(fx.Proxy):
    """A traced tensor that knows what it was for the example."""

    tracer: _Tracer

    @property
    def value(self) -> Any:
        return self.tracer.recorded.value_of(self.tracer.current(self.node))

    @property
    def shape(self) -> torch.Size:
        return self.value.shape

    @property
    def ndim(self) -> int:
        return self.value.ndim

    @property
    def dtype(self) -> torch.dtype:
        return self.value.dtype

    @property
    def device(self) -> torch.device:
        return self.value.device

    def __len__(self) -> int:
        return len(self.value)

    def __bool__(self) -> bool:
        return bool(self.value)

    def __iter__(self) -> Iterator[Any]:
        return (operator.getitem(self, index) for index in range(len(self.value)))

    # Without these Python would write x += y as x = x + y, and other names of x would keep what it was.
    def __iadd__(self, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", operator.iadd, (self, other), {})

    def __isub__(self, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", operator.isub, (self, other), {})

    def __imul__(self, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", operator.imul, (self, other), {})

    def __itruediv__(self, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", operator.itruediv, (self, other), {})


class _Tracer(fx.Tracer):
    def __init__(self, model: nn.Module, example: Tensor) -> None:
        super().__init__()
        self.example = example
        self.recorded = Trace(model, fx.Graph(), {})
        self.running = False
        self.overwritten: dict[fx.Node, fx.Node] = {}

    def current(self, node: fx.Node) -> fx.Node:
        """The node that has what is in the memory of ``node`` now, after operations in place."""
        while node in self.overwritten:
            node = self.overwritten[node]
        return node

    def create_arg(self, a: Any) -> Any:
        return self.current(a.node) if isinstance(a, fx.Proxy) else super().create_arg(a)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **options: Any) -> Any:
        proxy = super().create_proxy(kind, target, args, kwargs, *rest, **options)
        value = self.recorded.values[proxy.node] = self._run(proxy.node)
        if _holds_tensor(value):
            return proxy
        if not _is_about_shape(value):
            raise TypeError(f"{target!r} takes {type(value).__name__} out of a tensor of the image")
        return value

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if self.running:  # fx has patched nn.Module.__call__, also for our own calls
            return forward(*args, **kwargs)
        if isinstance(m, torch.jit.ScriptModule):
            raise TypeError("TorchScript hides its layers")
        if isinstance(getattr(m, "unwrapped", None), nn.Module):  # its forward splits batches, say
            return m.unwrapped(*args, **kwargs)  # type: ignore[operator]
        if isinstance(m, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            return m.module(*args, **kwargs)
        if "_orig_mod" in m._modules:  # compiled
            return m._modules["_orig_mod"](*args, **kwargs)  # type: ignore[misc]
        # Without hooks: a user's would keep proxies. One that changes the output is found out later.
        return super().call_module(m, m.forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        return attr_val if self.running else super().getattr(attr, attr_val, parameter_proxy_cache)

    def _run(self, node: fx.Node) -> Any:
        # Operations in place shall not write into what is recorded.
        copies = {n: _copy_of(self.recorded.value_of(n), n) for n in node.all_input_nodes}
        value = self._run_on(node, copies.__getitem__)
        for source, copy in copies.items():
            if copy is value and copy._version:  # whoever holds the source sees the result from now on
                self.overwritten[source] = node
            elif copy is value and isinstance(copy, Tensor) and source.op != "get_attr":
                self.recorded.untouched.add(node)
        return value

    def _run_on(self, node: fx.Node, value_of: Callable[[fx.Node], Any]) -> Any:
        args, kwargs = fx.node.map_arg(node.args, value_of), fx.node.map_arg(node.kwargs, value_of)
        self.running = True
        try:
            if node.op == "placeholder":
                return self.example
            if node.op == "get_attr":
                return operator.attrgetter(str(node.target))(self.root)
            if node.op == "call_module":
                return self.root.get_submodule(str(node.target)).forward(*args, **kwargs)
            if node.op == "call_method":
                return getattr(args[0], str(node.target))(*args[1:], **kwargs)
            return node.target(*args, **kwargs)  # type: ignore[operator]
        finally:
            self.running = False


def _copy_of(value: Any, node: fx.Node) -> Any:
    return value.clone() if isinstance(value, Tensor) and node.op != "get_attr" else value


def _is_about_shape(value: Any) -> bool:
    """Sizes, flags and the like, which are the same for all images of one size."""
    if isinstance(value, (tuple, list)):
        return all(map(_is_about_shape, value))
    return value is None or isinstance(value, (int, str, torch.dtype, torch.device, torch.layout))


def _holds_tensor(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return any(map(_holds_tensor, value))
    return isinstance(value, Tensor)
