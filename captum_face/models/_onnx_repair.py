"""ONNX graphs rewritten into operators that onnx2torch knows: the same network in older terms.

Every function changes the model in place or returns a changed copy; :func:`repaired` runs them all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["OPSET", "repaired"]

OPSET = 17  # newest of which onnx2torch 1.5 knows the operators
OLDEST = 9  # oldest of which it knows the operators
#: from these types to float32
FLOATS = ("FLOAT16", "BFLOAT16", "DOUBLE")


def repaired(model: Any, known: Callable[[str, int], bool]) -> tuple[Any, list[str]]:
    """Rewrites a model in terms of opset 9 to 17, in float32, as an inference graph.

    Args:
        model: An ``onnx.ModelProto``; it is changed.
        known: Whether an operator of an opset can be converted.

    Returns:
        The model, and what its inference graph does otherwise than the file says: BatchNorm and dropout
        exported in training mode. Everything else leaves the network what it was.
    """
    changes: list[str] = []
    _name_the_domain(model)
    model = _inline_local(model)
    _constants(model)
    _float32(model)
    _inference(model, changes)
    _old_opsets(model)
    model = _inline(model, known)
    _constants(model)
    _fold(model)
    _new_opsets(model)
    del model.graph.value_info[:]  # inferred anew, with the types and shapes of now
    _lower(model)
    _prune(model)
    _name_nodes(model)
    model.ir_version = 8
    return model, changes


def _opset(model: Any) -> int:
    return next((o.version for o in model.opset_import if not o.domain), 1)


def _set_opset(model: Any, version: int) -> None:
    for opset in model.opset_import:
        if not opset.domain:
            opset.version = version


def _name_the_domain(model: Any) -> None:
    """``ai.onnx`` is another name of the empty domain."""
    for holder in (*model.opset_import, *model.graph.node):
        if holder.domain == "ai.onnx":
            holder.domain = ""


def _inline_local(model: Any) -> Any:
    if not model.functions:
        return model
    from onnx import inliner

    return inliner.inline_local_functions(model)


def _attribute(node: Any, name: str, default: Any = None) -> Any:
    from onnx import helper

    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def _drop_attributes(node: Any, *names: str) -> None:
    kept = [a for a in node.attribute if a.name not in names]
    del node.attribute[:]
    node.attribute.extend(kept)


def _set_attribute(node: Any, name: str, value: Any) -> None:
    from onnx import helper

    _drop_attributes(node, name)
    node.attribute.append(helper.make_attribute(name, value))


def _weights(model: Any) -> dict[str, Any]:
    return {tensor.name: tensor for tensor in model.graph.initializer}


def _array(tensor: Any) -> np.ndarray:
    from onnx import numpy_helper

    return numpy_helper.to_array(tensor)


def _add_weight(model: Any, name: str, value: np.ndarray) -> str:
    from onnx import numpy_helper

    model.graph.initializer.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
    return name


def _set_weight(tensor: Any, value: np.ndarray) -> None:
    from onnx import numpy_helper

    tensor.CopyFrom(numpy_helper.from_array(np.asarray(value, order="C"), tensor.name))


def _constants(model: Any) -> None:
    """Constant nodes become initialisers; weights that pass through Identity are named directly."""
    from onnx import numpy_helper

    nodes = model.graph.node
    for node in [node for node in nodes if node.op_type == "Constant" and not node.domain]:
        attribute = node.attribute[0]
        value = _attribute(node, attribute.name)
        if attribute.name == "value":
            value = numpy_helper.to_array(value)
        elif attribute.name in ("value_float", "value_floats"):
            value = np.array(value, np.float32)
        elif attribute.name in ("value_int", "value_ints"):
            value = np.array(value, np.int64)
        else:  # strings and sparse tensors: left for the converter to name
            continue
        _add_weight(model, node.output[0], value)
        nodes.remove(node)
    weights = _weights(model)
    outputs = {value.name for value in model.graph.output}
    shared: dict[str, str] = {}
    for node in [node for node in nodes if node.op_type == "Identity"]:
        source = shared.get(node.input[0], node.input[0])
        if source in weights and node.output[0] not in outputs:
            shared[node.output[0]] = source
            nodes.remove(node)
    for node in nodes:
        node.input[:] = [shared.get(name, name) for name in node.input]


def _float32(model: Any) -> None:
    """Half precision and double become float32, also where a Cast says so."""
    from onnx import TensorProto

    others = {TensorProto.DataType.Value(name) for name in FLOATS}
    for tensor in model.graph.initializer:
        if tensor.data_type in others:
            _set_weight(tensor, _array(tensor).astype(np.float32))
    for node in model.graph.node:
        if node.op_type == "Cast" and _attribute(node, "to") in others:
            _set_attribute(node, "to", int(TensorProto.FLOAT))
        value = _attribute(node, "value")
        if node.op_type == "ConstantOfShape" and value is not None and value.data_type in others:
            _set_weight(value, _array(value).astype(np.float32))
            _set_attribute(node, "value", value)
    for info in (*model.graph.input, *model.graph.output):
        if info.type.tensor_type.elem_type in others:
            info.type.tensor_type.elem_type = TensorProto.FLOAT


def _inference(model: Any, changes: list[str]) -> None:
    """BatchNorm takes its running statistics, dropout passes its input on."""
    weights = _weights(model)
    opset = _opset(model)
    trained = 0
    dropped = 0
    for node in model.graph.node:
        if node.op_type == "BatchNormalization":
            several = any(node.output[1:])
            trained += bool(_attribute(node, "training_mode", 0)) or (opset < 14 and several)
            _drop_attributes(node, "training_mode", "spatial", "is_test", "consumed_inputs")
            del node.output[1:]
        elif node.op_type == "Dropout":
            mode = node.input[2] if len(node.input) > 2 else ""
            dropped += mode in weights and bool(_array(weights[mode]).any())
            node.op_type = "Identity"
            del node.input[1:], node.output[1:], node.attribute[:]
    if trained:
        changes.append(f"{trained} BatchNormalization in training mode (statistics of the batch)")
    if dropped:
        changes.append(f"{dropped} Dropout in training mode (random)")


def _old_opsets(model: Any) -> None:
    """Opset 7 and 8 differ from 9 in what :func:`_inference` took away; older ones are converted."""
    opset = _opset(model)
    if opset < 7 or (opset < OLDEST and any(node.op_type == "Upsample" for node in model.graph.node)):
        from onnx import version_converter

        try:
            model.CopyFrom(version_converter.convert_version(model, OLDEST))
        except Exception as error:
            raise NotImplementedError(f"opset {opset} cannot be read as opset {OLDEST}: {error}") from error
    elif opset < OLDEST:
        _set_opset(model, OLDEST)


def _inline(model: Any, known: Callable[[str, int], bool]) -> Any:
    """Writes operators that are unknown, and that ONNX defines by others, as those others."""
    from onnx import defs, inliner

    version = _opset(model)
    for _ in range(4):  # definitions may use operators that are defined by others again
        unknown = set()
        for node in model.graph.node:
            if node.domain or known(node.op_type, min(version, OPSET)):
                continue
            schema = _schema(defs, node.op_type, version)
            if schema and (schema.has_function or schema.has_context_dependent_function):
                unknown.add(("", node.op_type))
        if not unknown:
            break
        model = inliner.inline_selected_functions(model, sorted(unknown), inline_schema_functions=True)
    return model


def _schema(defs: Any, name: str, version: int) -> Any:
    try:
        return defs.get_schema(name, version, "")
    except defs.SchemaError:
        return None


def _fold(model: Any) -> None:
    """Computes what depends on weights alone, such as slopes that an Unsqueeze shapes."""
    from onnx import defs, helper
    from onnx.reference import ReferenceEvaluator

    weights = _weights(model)
    outputs = {value.name for value in model.graph.output}
    version = _opset(model)
    for node in list(model.graph.node):
        names = [name for name in node.input if name]
        if not names or node.domain or not all(name in weights for name in names):
            continue
        if outputs & set(node.output) or any(a.HasField("g") for a in node.attribute):
            continue
        schema = _schema(defs, node.op_type, version)
        if schema is None or node.op_type.startswith("Random"):
            continue
        empty = helper.make_graph(
            [node], "fold", [], [helper.make_empty_tensor_value_info(name) for name in node.output if name]
        )
        empty.initializer.extend(weights[name] for name in dict.fromkeys(names))
        single = helper.make_model(empty, opset_imports=[helper.make_opsetid("", version)])
        try:
            values = ReferenceEvaluator(single).run(None, {})
        except Exception:  # the converter then names the operator
            continue
        for name, value in zip(filter(None, node.output), values, strict=True):
            _add_weight(model, name, np.asarray(value))
            weights[name] = model.graph.initializer[-1]
        model.graph.node.remove(node)


def _new_opsets(model: Any) -> None:
    """Undoes what opsets after 17 changed; most of them only allow for more types."""
    if _opset(model) <= OPSET:
        return
    weights = _weights(model)
    for node in list(model.graph.node):
        kind = node.op_type
        if kind.startswith("Reduce") and kind != "ReduceSum":
            if len(node.input) > 1 and node.input[1]:
                if node.input[1] not in weights:
                    raise NotImplementedError(f"{kind} over computed axes")
                _set_attribute(node, "axes", [int(a) for a in _array(weights[node.input[1]])])
            elif _attribute(node, "noop_with_empty_axes", 0):
                node.op_type = "Identity"
                del node.attribute[:]
            del node.input[1:]
            _drop_attributes(node, "noop_with_empty_axes")
        elif kind in ("Cast", "CastLike"):
            _drop_attributes(node, "saturate", "round_mode")
        elif kind == "Split":
            _drop_attributes(node, "num_outputs")
        elif kind == "Resize" and not _attribute(node, "antialias", 0):
            _drop_attributes(node, "antialias", "keep_aspect_ratio_policy")
        elif kind == "AveragePool" and set(_attribute(node, "dilations", [1])) == {1}:
            _drop_attributes(node, "dilations")
    _set_opset(model, OPSET)


def _lower(model: Any) -> None:
    """Operators and forms that onnx2torch lacks, in those it has."""
    from onnx import helper

    shapes = _shapes(model)
    weights = _weights(model)
    written: list[Any] = []
    for node in model.graph.node:
        nodes = [node]
        if node.op_type == "Reshape" and _attribute(node, "allowzero", 0):
            shape = weights.get(node.input[1])
            if shape is None or (_array(shape) != 0).all():  # a computed shape of images holds no zero
                _drop_attributes(node, "allowzero")
        elif node.op_type == "PRelu" and node.input[1] in weights:
            _slope(model, node, shapes.get(node.input[0]), weights)
        elif node.op_type == "BatchNormalization":
            nodes = _batch_norm(model, node, weights)
        elif node.op_type == "LayerNormalization":
            nodes = _layer_norm(model, node, shapes.get(node.input[0]), weights)
        elif node.op_type == "Clip" and len(node.input) > 2 and node.input[2] and not node.input[1]:
            node.op_type = "Min"
            del node.input[1]
        elif node.op_type == "LpNormalization":
            norm = f"{node.output[0]}_norm"
            kind = "ReduceL1" if _attribute(node, "p", 2) == 1 else "ReduceL2"
            reduce = helper.make_node(
                kind, [node.input[0]], [norm], axes=[_attribute(node, "axis", -1)], keepdims=1
            )
            nodes = [reduce, helper.make_node("Div", [node.input[0], norm], list(node.output))]
        elif node.op_type in ("GlobalMaxPool", "GlobalAveragePool"):
            # onnx2torch averages over all dimensions, channels too, where shapes cannot be inferred.
            node.op_type = {"GlobalMaxPool": "ReduceMax", "GlobalAveragePool": "ReduceMean"}[node.op_type]
            _set_attribute(node, "axes", list(range(2, len(shapes.get(node.input[0]) or range(4)))))
            _set_attribute(node, "keepdims", 1)
        while node.input and not node.input[-1]:  # optional inputs named as absent
            del node.input[-1]
        written.extend(nodes)
    del model.graph.node[:]
    model.graph.node.extend(written)
    # onnx2torch gives all outputs of the last node, where one is asked for
    for output in model.graph.output:
        maker = next((node for node in model.graph.node if output.name in node.output), None)
        if maker is not None and len(maker.output) > 1:
            inner = f"{output.name}_chosen"
            for node in model.graph.node:
                node.input[:] = [inner if name == output.name else name for name in node.input]
            maker.output[:] = [inner if name == output.name else name for name in maker.output]
            model.graph.node.append(helper.make_node("Identity", [inner], [output.name]))


def _shapes(model: Any) -> dict[str, list[int | None]]:
    from onnx import shape_inference

    try:
        graph = shape_inference.infer_shapes(model).graph
    except Exception:  # the file contradicts itself, as with slopes that cannot be broadcast
        graph = model.graph
    return {
        value.name: [d.dim_value or None for d in value.type.tensor_type.shape.dim]
        for value in (*graph.value_info, *graph.input, *graph.output)
        if value.type.tensor_type.HasField("shape")
    }


def _slope(model: Any, node: Any, shape: list[int | None] | None, weights: dict[str, Any]) -> None:
    """Slopes of channels as ``(C, 1, 1)``; MXNet writes ``(C,)``, which ONNX would lay along the width."""
    slope = _array(weights[node.input[1]])
    channels = slope.size
    if shape is not None and len(shape) != 4:
        return
    by_channel = slope.ndim >= 3 and slope.shape[-3] == channels
    along_width = shape is not None and shape[3] == channels and shape[1] != channels
    if channels == 1 or by_channel or (slope.ndim == 1 and not along_width):
        name = f"{node.output[0]}_slope"
        node.input[1] = _add_weight(model, name, slope.reshape(channels, 1, 1))


def _batch_norm(model: Any, node: Any, weights: dict[str, Any]) -> list[Any]:
    """Statistics of channels as ``(C,)``; those of every place (``spatial=0``) as Mul and Add."""
    from onnx import helper

    if not all(name in weights for name in node.input[1:]):
        return [node]
    gamma, beta, mean, variance = (_array(weights[name]) for name in node.input[1:])
    if gamma.ndim == 1:
        return [node]
    if gamma.size == gamma.shape[0]:
        for position, value in enumerate((gamma, beta, mean, variance), 1):
            name = f"{node.output[0]}_{position}"
            node.input[position] = _add_weight(model, name, value.reshape(-1))
        return [node]
    scale = gamma / np.sqrt(variance + _attribute(node, "epsilon", 1e-5))
    scale_name = _add_weight(model, f"{node.output[0]}_scale", scale.astype(np.float32))
    shift_name = _add_weight(model, f"{node.output[0]}_shift", (beta - mean * scale).astype(np.float32))
    scaled = f"{node.output[0]}_scaled"
    return [
        helper.make_node("Mul", [node.input[0], scale_name], [scaled]),
        helper.make_node("Add", [scaled, shift_name], list(node.output)),
    ]


def _layer_norm(model: Any, node: Any, shape: list[int | None] | None, weights: dict[str, Any]) -> list[Any]:
    """By parts where the size of what is normalised is not stated, as onnx2torch needs it to be."""
    from onnx import helper

    axis = _attribute(node, "axis", -1)
    if node.input[1] not in weights or (shape and all(shape[axis:])):
        return [node]
    axes = [-1 - i for i in range(len(weights[node.input[1]].dims))]
    x, scale = node.input[:2]
    out = node.output[0]
    names = {part: f"{out}_{part}" for part in ("mean", "centred", "square", "var", "safe", "std", "normal")}
    epsilon = np.array(_attribute(node, "epsilon", 1e-5), np.float32)
    epsilon_name = _add_weight(model, f"{out}_epsilon", epsilon)
    last = f"{out}_scaled" if len(node.input) > 2 and node.input[2] else out
    nodes = [
        helper.make_node("ReduceMean", [x], [names["mean"]], axes=axes, keepdims=1),
        helper.make_node("Sub", [x, names["mean"]], [names["centred"]]),
        helper.make_node("Mul", [names["centred"], names["centred"]], [names["square"]]),
        helper.make_node("ReduceMean", [names["square"]], [names["var"]], axes=axes, keepdims=1),
        helper.make_node("Add", [names["var"], epsilon_name], [names["safe"]]),
        helper.make_node("Sqrt", [names["safe"]], [names["std"]]),
        helper.make_node("Div", [names["centred"], names["std"]], [names["normal"]]),
        helper.make_node("Mul", [names["normal"], scale], [last]),
    ]
    if last != out:
        nodes.append(helper.make_node("Add", [last, node.input[2]], [out]))
    return nodes


def _prune(model: Any) -> None:
    """Leaves out what the output does not depend on, and weights listed as inputs."""
    needed = {value.name for value in model.graph.output}
    kept = []
    for node in reversed(model.graph.node):
        if needed & set(node.output):
            kept.append(node)
            needed.update(node.input)
            for attribute in node.attribute:
                needed.update(name for inner in attribute.g.node for name in inner.input)
    kept = list(reversed(kept))
    del model.graph.node[:]
    model.graph.node.extend(kept)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer if tensor.name in needed}
    del model.graph.initializer[:]
    model.graph.initializer.extend(tensors.values())
    inputs = [value for value in model.graph.input if value.name in needed and value.name not in tensors]
    if inputs:
        del model.graph.input[:]
        model.graph.input.extend(inputs)


def _name_nodes(model: Any) -> None:
    """Gives each node a name of its own; those of onnx2torch collide where some nodes have none."""
    taken: set[str] = set()
    for node in model.graph.node:
        name = wanted = node.name.replace(".", "/").lstrip("/") or node.op_type
        count = 0
        while name in taken:
            count += 1
            name = f"{wanted}__{count}"
        taken.add(name)
        node.name = name
