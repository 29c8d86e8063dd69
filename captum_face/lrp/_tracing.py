"""The operations of a model in their order of execution, as a :class:`torch.fx.Graph`.

:func:`torch.fx.symbolic_trace` sees modules being called by a patch of ``nn.Module.__call__``, which reaches
every model of the process, also those that other threads run. Here a copy of the model is traced that has its
very tensors and a ``forward`` of its own for each module, so that nothing else is touched.
"""

from __future__ import annotations

import copy
import functools
import operator
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor, fx, nn

from captum_face.pair._state import HOOKS

__all__ = ["Trace", "drop_unused", "trace"]


class Trace:
    """What a model did with an example.

    Args:
        root: The traced copy, which owns what the graph refers to.
        graph: One node for each operation on tensors that depend on the input.
        values: What each node gave for the example, outside of any autocast.
    """

    def __init__(self, root: nn.Module, graph: fx.Graph, values: dict[fx.Node, Any]) -> None:
        self.root, self.graph, self.values = root, graph, values
        self.autocast = False  #: whether the model switches autocast on by itself
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
    try:
        with torch.inference_mode(False), torch.no_grad():
            recorded = _Tracer(_stand_in(model), example).record()
    except Exception as error:
        raise RuntimeError(
            f"the embedding model cannot be traced ({type(error).__name__}: {error}). LRP needs to see its "
            "layers in their order of execution: give PairSimilarity the nn.Module itself rather than a "
            "function around it, and keep numpy, .item() and torch.jit out of its forward; or pass "
            "canonizers= of your own, or canonizers=None if the model consists of layers that need none"
        ) from error
    drop_unused(recorded.graph)
    return recorded


class _Through(nn.Module):
    """In place of a module that runs another one in a way of its own: runs it."""

    def __init__(self, name: str, inner: nn.Module) -> None:
        super().__init__()
        self.add_module(name, inner)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        (inner,) = self.children()
        return inner(*args, **kwargs)


class _Hidden(nn.Module):
    """In place of TorchScript."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("TorchScript hides its layers")


def _stand_in(model: nn.Module) -> nn.Module:
    """A copy with the very tensors of a model and without its hooks, for which a trace would hold proxies.

    A hook that changes what passes is found out later.
    """
    memo: dict[int, Any] = {}
    for module in model.modules():
        if not isinstance(module, torch.jit.ScriptModule):
            kept = (module._parameters, module._buffers, vars(module))
            memo.update((id(v), v) for values in kept for v in values.values() if isinstance(v, Tensor))
    for module in reversed([*model.modules()]):  # the inner ones first
        if isinstance(module, torch.jit.ScriptModule):
            memo[id(module)] = _Hidden()
        elif isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            memo[id(module)] = _Through("module", copy.deepcopy(module.module, memo))
        elif "_orig_mod" in module._modules:  # compiled
            memo[id(module)] = _Through("_orig_mod", copy.deepcopy(module.get_submodule("_orig_mod"), memo))
    try:
        twin = copy.deepcopy(model, dict(memo))
    except Exception:  # a module may hold what cannot be copied, a lock say: the copy holds the very same
        for value in chain.from_iterable(vars(module).values() for module in model.modules()):
            try:
                copy.deepcopy(value, dict(memo))
            except Exception:
                if not isinstance(value, dict):
                    memo[id(value)] = value
        twin = copy.deepcopy(model, memo)
    for module in twin.modules():
        vars(module).pop("_compiled_call_impl", None)
        for hooks in HOOKS:
            getattr(module, hooks).clear()
    return twin


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

    def record(self) -> Trace:
        """Runs the model once with a proxy for the image."""
        self.root = root = self.recorded.root
        self.graph = self.recorded.graph = fx.Graph(tracer_cls=type(self))
        self.tensor_attrs = {}
        self.submodule_paths = {module: name for name, module in root.named_modules()}
        own = {module: vars(module).get("forward") for module in root.modules()}
        run = root.forward
        for module in own:
            vars(module)["forward"] = functools.partial(self._called, module, module.forward)
        try:
            answer = run(self.create_proxy("placeholder", "image", (), {}))
            self.create_node("output", "output", (self.create_arg(answer),), {})
        finally:
            for module, forward in own.items():
                del vars(module)["forward"]
                if forward is not None:
                    vars(module)["forward"] = forward
        return self.recorded

    def _called(self, module: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self.running:  # our own calls
            return forward(*args, **kwargs)
        if isinstance(getattr(module, "unwrapped", None), nn.Module):  # its forward splits batches, say
            return module.unwrapped(*args, **kwargs)  # type: ignore[operator]
        return self.call_module(module, forward, args, kwargs)

    def _run(self, node: fx.Node) -> Any:
        # Operations in place shall not write into what is recorded.
        copies = {n: _copy_of(self.recorded.value_of(n), n) for n in node.all_input_nodes}
        value = self._run_on(node, copies.__getitem__)
        for source, given in copies.items():
            if given is value and given._version:  # all that hold the source see the result from now on
                self.overwritten[source] = node
            elif given is value and isinstance(given, Tensor) and source.op != "get_attr":
                self.recorded.untouched.add(node)
        return value

    def _run_on(self, node: fx.Node, value_of: Callable[[fx.Node], Any]) -> Any:
        args, kwargs = fx.node.map_arg(node.args, value_of), fx.node.map_arg(node.kwargs, value_of)
        self.running = True
        kind = self.example.device.type
        self.recorded.autocast |= torch.is_autocast_enabled(kind)
        try:
            with torch.autocast(kind, enabled=False):
                return self._result_of(node, args, kwargs)
        finally:
            self.running = False

    def _result_of(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        if node.op == "placeholder":
            return self.example
        if node.op == "get_attr":
            return operator.attrgetter(str(node.target))(self.root)
        if node.op == "call_module":
            return self.root.get_submodule(str(node.target)).forward(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        return node.target(*args, **kwargs)  # type: ignore[operator]


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
