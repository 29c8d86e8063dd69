"""Face networks as graphs of layers that have relevance rules.

Zennit's canonizers pair layers by the order in which they are *registered*. MobileFaceNet's are executed
in another, and a BatchNorm merged into the wrong convolution is silently another network. Here the model
is traced as it runs and rewritten into a graph of its own: the original is read and never touched, so
that there is nothing to undo.
"""

from __future__ import annotations

import operator
from types import MethodType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize
from zennit import types

from captum_face._validation import require_choice
from captum_face.lrp._folding import fold_batch_norms
from captum_face.lrp._known import as_layers, is_identity, is_layer, is_routing, is_unit_length
from captum_face.lrp._layers import LayoutSum, Rescale, Reshape, Unruled, repeated, side_by_side
from captum_face.lrp._tracing import Trace, drop_unused, trace

__all__ = ["canonize"]

_PREFIX = "model."
_NOT_IN_PLACE: dict[Any, Any] = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
}


def canonize(model: nn.Module, example: Tensor, *, unknown_layers: str = "raise") -> fx.GraphModule:
    """The same function as a graph of layers with relevance rules, in their order of execution.

    * A BatchNorm (1d or 2d, with or without weights of its own) goes into the convolution or linear layer
      before it, or into all that follow it: its scale into their weights, its shift into their biases; a
      padded convolution gets a bias for each place. One between two nonlinear layers stays.
    * ``x + y``, ``torch.add``, ``x += y`` of two tensors become Zennit's ``Sum`` layer.
    * Functions (``F.relu``, ``F.linear``, a mean over places) become their layers, and a layer that is
      called twice becomes two, since a rule remembers what its layer was given.
    * The larger of two tensors (max-feature-map layers) stays: its gradient hands relevance on.
    * Weights that are computed from others (weight and spectral normalisation) become what they come to;
      DataParallel and compiled models are seen through.
    * Dropout and checks of shapes vanish; an L2 normalisation of the embedding becomes a layer that hands
      relevance on.

    The layers keep their paths in ``model``.

    Args:
        model: Images to embeddings, in eval mode. It is not changed.
        example: One preprocessed image ``(1, C, H, W)``; the graph is for images of this size.
        unknown_layers: What to do where there is no rule: ``"raise"``, or ``"gradient"`` to keep the
            operation, parts and all, and multiply relevance by its gradient there, which conserves nothing.

    Returns:
        The graph module, for any batch.

    Cost: two forward passes of the example.

    Raises:
        RuntimeError: the model cannot be traced.
        ValueError: an operation without a rule; the message names its path and type.
    """
    require_choice(unknown_layers, ("raise", "gradient"), "way to treat unknown layers")
    traced = trace(model, example)
    with torch.no_grad():
        module = _Rewriter(traced, raises=unknown_layers == "raise").run()
        fold_batch_norms(module)
    _put_first_layers_first(module)
    module.meta["trace"] = traced
    return module.eval().requires_grad_(False)


class _Interpreted(fx.GraphModule):
    """A graph that is run node by node: the code of compiled ones is kept by the process for ever."""

    def recompile(self) -> Any:
        return None

    def forward(self, images: Tensor) -> Any:
        return fx.Interpreter(self).run(images)


class _Rewriter:
    """Writes a trace anew, operation by operation, in terms of layers that have rules."""

    def __init__(self, traced: Trace, raises: bool) -> None:
        self.traced, self.raises = traced, raises
        self.root, self.graph = nn.Module(), fx.Graph()
        self.new: dict[fx.Node, fx.Node] = {}  # nodes that depend on the image, by their old ones
        self.names: set[str] = set()

    def run(self) -> fx.GraphModule:
        _mark_rescaling(self.traced)
        for node in self.traced.graph.nodes:
            if node.op == "placeholder":
                self.new[node] = self.graph.placeholder(node.name)
            elif node.op == "output":
                self.graph.output(fx.node.map_arg(node.args[0], self._refer))
            elif any(source in self.new for source in node.all_input_nodes):
                self.new[node] = self._rewrite(node)
                self.new[node].meta.update(source=node, shape=_shape(self.traced.values[node]))
        drop_unused(self.graph)
        return _Interpreted(self.root, self.graph)

    def _rewrite(self, node: fx.Node) -> fx.Node:
        inputs = [source for source in node.all_input_nodes if source in self.new]
        given, result = (self.traced.values.get(n) for n in (inputs[0], node))
        kind = _kind(node)
        if node.op == "call_module":
            layer = self.traced.root.get_submodule(str(node.target))
            if isinstance(layer, (nn.Identity, nn.modules.dropout._DropoutNd)):
                return self.new[inputs[0]]
            if isinstance(layer, (nn.Flatten, nn.Unflatten)) and isinstance(result, Tensor):
                return self._add(node, [Reshape(result.shape[1:])], inputs[0])
            if is_layer(layer):
                return self._add(node, [_copy(layer)], inputs[0])
            self._refuse(node)
            args: Any = fx.node.map_arg(node.args, self._refer)
            kwargs: Any = fx.node.map_arg(node.kwargs, self._refer)
            return self._call(node, Unruled(_copy(layer)), *args, **kwargs)
        if node.meta.get("rescales"):
            return self._add(node, [Rescale()], inputs[0])
        if isinstance(given, Tensor) and isinstance(result, Tensor):
            once = len(inputs) == 1 and sum(arg is inputs[0] for arg in node.args) <= 1  # and not x * x
            if once and (node in self.traced.untouched or is_identity(kind, given, result)):
                return self.new[inputs[0]]
            if kind in ("add", "iadd") and self._is_sum(node):
                both = fx.node.map_arg(list(node.args), self.new.__getitem__)
                stacked = self.graph.call_function(side_by_side, (both,))
                return self._call(node, LayoutSum(dim=-1), stacked)
            if once:
                args = fx.node.map_arg(node.args, self.traced.value_of)
                kwargs = fx.node.map_arg(node.kwargs, self.traced.value_of)
                layers = as_layers(kind, given, result, args, kwargs)
                if layers is not None:
                    return self._add(node, layers, inputs[0])
        if not is_routing(kind, len(inputs)):
            self._refuse(node)
        copy = self.graph.node_copy(node, self._refer)
        if kind in ("cat", "concat", "stack"):  # unlike sums they do not broadcast
            self._repeat_constants(copy, self.new[inputs[0]])
        if copy.target == "view":
            copy.target = "reshape"  # the rewritten model may have another memory layout
        elif isinstance(copy.target, str) and hasattr(Tensor, kind):
            copy.target = kind  # not in place
        copy.target = _NOT_IN_PLACE.get(copy.target, copy.target)
        return copy

    def _is_sum(self, node: fx.Node) -> bool:
        """Whether a node adds two tensors of one shape that both depend on the image."""
        shapes = {_shape(self.traced.value_of(n)) for n in [*node.all_input_nodes, node]}
        both = len(node.args) == 2 and all(isinstance(arg, fx.Node) and arg in self.new for arg in node.args)
        return both and not node.kwargs and len(shapes) == 1

    def _add(self, node: fx.Node, layers: list[nn.Module], source: fx.Node) -> fx.Node:
        result = self.new[source]
        for layer in layers:
            result = self._call(node, layer, result)
        return result

    def _call(self, node: fx.Node, layer: nn.Module, *args: Any, **kwargs: Any) -> fx.Node:
        name = _path(node, self.traced.root)
        first, _, rest = name.partition(".")
        if hasattr(fx.GraphModule, first):  # "graph", "code", "forward": taken
            name = f"{first}_.{rest}" if rest else f"{first}_"
        if name in self.names:
            name = next(
                f"{name}_{i}" for i in range(1, len(self.names) + 1) if f"{name}_{i}" not in self.names
            )
        self.names.add(name)
        self._install(name, layer.eval())
        return self.graph.call_module(name, args, kwargs)

    def _refer(self, node: fx.Node) -> fx.Node:
        if node in self.new:
            return self.new[node]
        name = f"constant_{len(self.names)}"
        self.names.add(name)
        value = self.traced.value_of(node)
        if isinstance(value, Tensor):
            self.root.register_buffer(name, value.detach().clone(), persistent=False)
        else:
            setattr(self.root, name, value)
        return self.graph.get_attr(name)

    def _repeat_constants(self, node: fx.Node, like: fx.Node) -> None:
        """Makes constants, which were made for the batch of 1 of the example, fit any batch."""
        for source in node.all_input_nodes:
            value = getattr(self.root, str(source.target)) if source.op == "get_attr" else None
            if isinstance(value, Tensor) and value.ndim > 1 and len(value) == 1:
                with self.graph.inserting_before(node):
                    each = self.graph.call_function(repeated, (source, like))
                node.replace_input_with(source, each)

    def _install(self, name: str, layer: nn.Module) -> None:
        *folders, leaf = name.split(".")
        parent = self.root
        for folder in folders:
            if not hasattr(parent, folder):
                parent.add_module(folder, nn.Module())
            parent = getattr(parent, folder)
        parent.add_module(leaf, layer)

    def _refuse(self, node: fx.Node) -> None:
        if not self.raises:
            return
        path = _path(node, self.traced.root)
        what = _kind(node)
        if node.op == "call_module":
            what = type(self.traced.root.get_submodule(str(node.target))).__name__
        raise ValueError(
            f"LRP has no rule for {what} at {path!r} of the embedding model; write it in terms of layers "
            "that have one, or pass unknown_layers='gradient' to multiply relevance by its gradient there, "
            "which does not conserve it"
        )


def _mark_rescaling(traced: Trace) -> None:
    """Finds where embeddings are scaled to unit length, and forgets how their length is computed."""
    for node in traced.graph.nodes:
        if node.op not in ("call_function", "call_method"):
            continue
        for source in node.all_input_nodes:
            if source.op != "get_attr" and is_unit_length(traced.values.get(source), traced.values[node]):
                node.args, node.kwargs, node.meta["rescales"] = (source,), {}, True
                break
    drop_unused(traced.graph)


def _put_first_layers_first(module: fx.GraphModule) -> None:
    """Marks the linear layers that see the image itself, and registers the one executed first before all.

    Composites that have a rule for the first layer of a kind take the one *registered* first, which may be
    a later one where layers keep the paths they had.
    """
    sees_image: dict[fx.Node, bool] = {}
    first: dict[type, str] = {}
    for node in module.graph.nodes:
        sees_image[node] = node.op == "placeholder" or any(sees_image[n] for n in node.all_input_nodes)
        layer = module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(layer, types.Linear):
            layer.sees_image = sees_image[node]
            sees_image[node] = False
            first.setdefault(types.Linear, str(node.target))
            if isinstance(layer, types.Convolution):
                first.setdefault(types.Convolution, str(node.target))
    for kind in (types.Convolution, types.Linear):
        path = first.get(kind, "").split(".")
        for i, name in enumerate(path):
            children = module.get_submodule(".".join(path[:i]))._modules
            if name in children:
                children.update({name: children.pop(name), **{k: children.pop(k) for k in [*children]}})


def _kind(node: fx.Node) -> str:
    """The bare name of what a node calls; functions of the model's own that stay whole keep their module."""
    if node.op == "call_module":
        return ""
    if isinstance(node.target, str):
        return node.target.strip("_")
    module = getattr(node.target, "__module__", None) or "torch"
    name = getattr(node.target, "__name__", str(node.target))
    ours = module.split(".")[0] in ("torch", "_operator", "captum_face")
    return name.strip("_") if ours else f"{module}.{name}"


def _path(node: fx.Node, root: nn.Module) -> str:
    """Where in the model a node belongs: its layer, or the module whose code calls the function."""
    if node.op == "call_module":
        path = str(node.target)
    else:
        stack = node.meta.get("nn_module_stack") or {"": None}
        path = list(stack)[-1]
        path = path.split("@")[0]  # fx numbers repeated calls so
        module = root.get_submodule(path)
        if next(module.children(), None) is not None or path + "." == _PREFIX or not path:
            path = f"{path}.{_kind(node)}".lstrip(".")
    return path.removeprefix(_PREFIX)


def _shape(value: Any) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, Tensor) else None


def _copy(layer: nn.Module) -> nn.Module:
    """A layer of its own with the same weights: not in place, without hooks, in eval mode.

    Weights that are computed from others (weight and spectral normalisation, new and old) become plain
    ones: rules work on what the layer uses.
    """
    parametrized = parametrize.is_parametrized(layer)
    kind: Any = type(layer).__bases__[0] if parametrized else type(layer)
    copy: nn.Module = kind.__new__(kind)
    nn.Module.__init__(copy)
    own = set(vars(copy))
    vars(copy).update({name: value for name, value in vars(layer).items() if name not in own})
    weights = dict(layer._parameters)
    if parametrized:
        names = [name for name, _ in layer.get_submodule("parametrizations").named_children()]
        weights.update({name: getattr(layer, name) for name in names})
    for name in [name for name, value in vars(copy).items() if isinstance(value, Tensor)]:
        weights[name] = vars(copy).pop(name)
        for part in ("_g", "_v", "_orig"):
            weights.pop(name + part, None)
    for name, value in weights.items():
        copy.register_parameter(name, None if value is None else nn.Parameter(value.detach().clone(), False))
    for name, buffer in layer._buffers.items():
        copy.register_buffer(name, None if buffer is None else buffer.detach().clone())
    for name, child in layer.named_children():
        if not parametrized or name != "parametrizations":
            copy.add_module(name, _copy(child))
    if isinstance(vars(copy).get("forward"), MethodType):
        del copy.forward  # bound to the original
    if hasattr(copy, "inplace"):
        vars(copy)["inplace"] = False
    return copy.eval()
