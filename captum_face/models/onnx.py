"""Face networks from ONNX files, as differentiable modules."""

from __future__ import annotations

import importlib
import re
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from captum_face.models._onnx_repair import repaired

__all__ = ["OnnxEmbedding", "load_onnx", "onnx_parity"]

TOLERANCE = 1e-3  # relative; converted networks agree to about 1e-6, a wrong operator by far more
HALF_TOLERANCE = 3e-2  # of files in half precision, which onnxruntime computes in half precision
DEFAULT_SIZE = (112, 112)
CORRRISE = (
    "CorrRISE explains the original: it needs no gradients and accepts any callable, such as one around an "
    "onnxruntime session"
)


class OnnxEmbedding(nn.Module):
    """A converted ONNX graph that answers every batch of N images with N embeddings.

    The graph is what was exported, BatchNorms folded or frozen: it stays in eval mode, also after
    ``.train()``, and its parameters take no gradients. Gradients with respect to the images flow.

    Args:
        graph: The converted graph, images to embeddings.
        input_size: Height and width the graph was made for, or None if it takes any.
        fixed_batch: The graph is right for single images only; they are then run one at a time.
        embedding_size: Length D of the embedding.

    Shape:
        ``(N, 3, H, W)`` to ``(N, D)``; the value range is whatever the exported model expects.
    """

    def __init__(
        self,
        graph: nn.Module,
        *,
        input_size: tuple[int, int] | None = None,
        fixed_batch: bool = False,
        embedding_size: int | None = None,
    ) -> None:
        super().__init__()
        self.graph = graph.requires_grad_(False)
        self.input_size = input_size
        self.fixed_batch = fixed_batch
        self.embedding_size = embedding_size
        self.eval()

    def train(self, mode: bool = True) -> OnnxEmbedding:
        """Sets the module's own flag; the graph keeps the inference behaviour it was saved with."""
        super().train(mode)
        self.graph.eval()
        return self

    @property
    def unwrapped(self) -> nn.Module:
        """The network inside, which LRP propagates through, one image at a time."""
        return self.graph

    def forward(self, images: Tensor) -> Tensor:
        """Returns the embeddings ``(N, D)`` of ``images`` ``(N, 3, H, W)``.

        Raises:
            ValueError: ``images`` has another shape.
        """
        size = self.input_size or images.shape[2:]
        if images.ndim != 4 or images.shape[1:] != (3, *size):
            height, width = self.input_size or ("H", "W")
            raise ValueError(
                f"expected images of the shape (N, 3, {height}, {width}), got "
                f"{tuple(images.shape)}; align and resize the faces to the model's input first"
            )
        if self.fixed_batch:
            return torch.cat([self.graph(image) for image in images.split(1)])
        return self.graph(images)

    def extra_repr(self) -> str:
        return (
            f"input_size={self.input_size}, fixed_batch={self.fixed_batch}, "
            f"embedding_size={self.embedding_size}"
        )


def load_onnx(
    path: str | Path,
    *,
    check: bool = True,
    output: str | None = None,
    input_size: tuple[int, int] | None = None,
) -> OnnxEmbedding:
    """Loads an ONNX face network as a differentiable module, through ``onnx2torch``.

    Needs the extra ``onnx``: ``pip install "captum-face[onnx]"``. For example::

        model = load_onnx("w600k_r50.onnx")
        pair = PairSimilarity(model, preprocess="arcface", threshold=0.3)

    Many files are exported for a batch of one image and, converted, answer larger batches with
    wrong shapes or wrong numbers. Such files are recognised by a fixed first dimension of their
    input, or because two images together do not give what they give one by one. They are run one
    image at a time, at the same results but without the speed of batches
    (:attr:`OnnxEmbedding.fixed_batch`). Files with another fixed batch are run in the same way, if
    they allow for single images, and refused otherwise.

    Files of opset 7 and newer are read, from PyTorch's exporters and others. What onnx2torch does not know
    is rewritten first: operators that ONNX defines by others (Gelu, attention, group normalisation), newer
    forms of known ones, slopes and statistics as MXNet writes them, half precision as float32. The loaded
    network is an **inference** network: where a BatchNorm or a dropout was exported in training mode, it
    uses the running statistics and drops nothing, and a warning says so.

    Args:
        path: The file. Its one input is a float image batch ``(N, 3, H, W)``.
        check: Compare with onnxruntime, on seeded random images of the model's input size.
        output: Name of the output that is the embedding ``(N, D)``; only needed if the file has
            several.
        input_size: Height and width, only for files that leave them open; 112 x 112 is then tried
            and the module accepts any size. Files that state their size need none.

    Returns:
        The module, in eval mode on the CPU. It costs a handful of forward passes to make.

    Raises:
        ImportError: The extra is not installed, or torchvision, which onnx2torch needs, does not
            match the installed torch.
        FileNotFoundError: There is no such file.
        ValueError: It is not an ONNX file, has not one image input or not one embedding output,
            holds an operator that onnx2torch cannot convert, or the converted graph differs from
            onnxruntime by more than 1e-3 of the largest value (3e-2 for files in half precision).

    Warns:
        UserWarning: The file holds BatchNorm or dropout in training mode.
    """
    path = Path(path)
    if not path.is_file():
        what = "a folder" if path.is_dir() else "nothing"
        raise FileNotFoundError(f"expected an ONNX file at {path}, found {what}")
    model = _read(path)
    batch, size = _image_input(model, path)
    if size and input_size and size != tuple(input_size):
        raise ValueError(f"{path} takes images of the size {size}, got input_size={input_size}")
    size = size or input_size
    output = _select_output(model, output, path)
    half = any(tensor.data_type in (10, 16) for tensor in model.graph.initializer)
    model, changes = _repair(model, path)
    if changes:
        warnings.warn(
            f"{path} holds {' and '.join(changes)}. The loaded network is the inference network, with "
            "running statistics and without dropout; onnxruntime computes other embeddings from this file. "
            "Export the model after model.eval() to have one network in both",
            UserWarning,
            stacklevel=2,
        )

    # Single images first: what they give is right whatever batch the file was exported for.
    graph = _convert(model, path)
    images = torch.rand(
        max(batch or 1, 2), 3, *(size or DEFAULT_SIZE), generator=torch.Generator().manual_seed(0)
    )
    try:
        with torch.no_grad():
            graph = _flat(graph, graph.eval()(images[:1]))
            embedding = OnnxEmbedding(graph, input_size=size, fixed_batch=True)
            single = embedding(images)
    except Exception as error:
        fixed = f" A batch of {batch} is fixed in it; export it for any batch." if batch else ""
        open_size = "" if size else " It leaves its image size open; state it by input_size=."
        raise ValueError(
            f"the converted graph of {path} cannot run one image of "
            f"{tuple(images.shape[1:])}: {error}.{fixed}{open_size}"
        ) from error
    if single.ndim != 2 or len(single) != len(images):
        raise ValueError(
            f"expected embeddings of the shape ({len(images)}, D) from output {output!r} of {path} for "
            f"{len(images)} images run one at a time, got {tuple(single.shape)}; export the model with a "
            "flat embedding as its output and for any batch"
        )
    embedding.embedding_size = single.shape[1]
    embedding.fixed_batch = batch is not None or not _batches(embedding.graph, images, single)
    if check:
        difference = onnx_parity(embedding, path, images, output=output)
        tolerance = HALF_TOLERANCE if half else TOLERANCE
        if not difference <= tolerance:  # also refuses NaN
            raise ValueError(
                f"the converted graph of {path} differs from onnxruntime by {difference:.2g} of "
                f"the largest value (at most {tolerance:g} is expected), so it would explain "
                f"another model. {CORRRISE}"
            )
    return embedding


def onnx_parity(model: nn.Module, path: str | Path, images: Tensor, *, output: str | None = None) -> float:
    """Measures how far a module's embeddings are from those of onnxruntime.

    Args:
        model: Images to embeddings, in eval mode.
        path: The ONNX file to compare with. If it fixes its batch, ``images`` are run in batches
            of that size, of which N must be a multiple.
        images: Preprocessed float images ``(N, 3, H, W)``.
        output: Name of the file's output, by default its first.

    Returns:
        The largest absolute difference, divided by the largest absolute value of onnxruntime;
        infinite if the shapes differ.

    Raises:
        ImportError: onnxruntime is not installed.
        ValueError: onnxruntime cannot open the file.
    """
    original = _read(Path(path))
    name = output or original.graph.output[0].name
    _select_output(original, name, Path(path))
    model_proto, changes = _repair(original, Path(path))
    sources: list[str | bytes] = [str(path)] if not changes else []
    failures = []
    for source in [*sources, model_proto.SerializeToString()]:
        try:
            expected = _onnxruntime(source, images, name)
            break
        except ImportError:
            raise
        except Exception as error:  # onnxruntime has exceptions of its own, for loading and for running
            failures.append(str(error))
    else:
        raise ValueError(
            f"onnxruntime cannot run {path} to compare with: {failures[0]}. Load it with check=False if "
            "you know that the converted network is right"
        )
    with torch.no_grad():
        got = model(images).cpu()
    # (N, D, 1, 1) and (D,) are embeddings (N, D) too
    if got.numel() != expected.numel() or (expected.ndim == 2 and got.shape != expected.shape):
        return float("inf")
    expected = expected.reshape(got.shape)
    return float((got - expected).abs().max() / expected.abs().max())


def _onnxruntime(source: str | bytes, images: Tensor, output: str) -> Tensor:
    """What onnxruntime answers, from a file or from a serialised model."""
    ort = _import("onnxruntime")
    options = ort.SessionOptions()
    options.log_severity_level = 4  # what fails is raised; its own lines beside that help nobody here
    options.intra_op_num_threads = 1  # its waiting threads would slow torch's down
    session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    image_input = session.get_inputs()[0]
    first = image_input.shape[0]  # an integer where it is fixed, a name or None where it is open
    batch = first if isinstance(first, int) and first > 0 else 1
    dtype = {"tensor(float16)": torch.float16, "tensor(double)": torch.float64}.get(
        image_input.type, torch.float32
    )
    parts = [part.to("cpu", dtype).numpy() for part in images.split(batch)]
    return torch.cat(
        [torch.from_numpy(session.run([output], {image_input.name: part})[0]).float() for part in parts]
    )


def _flat(graph: nn.Module, single: Tensor) -> nn.Module:
    """Makes rows of embeddings ``(N, D, 1, 1)``, and of the ``(D,)`` that a single image may give."""
    if single.ndim == 1:
        return nn.Sequential(graph, nn.Unflatten(0, (1, -1)))
    if single.ndim > 2 and single.numel() == max(single.shape[1:]) and len(single) == 1:
        return nn.Sequential(graph, nn.Flatten(1))
    return graph


def _batches(graph: nn.Module, images: Tensor, single: Tensor) -> bool:
    """Whether the graph gives a batch what it gives its images one by one."""
    try:
        with torch.no_grad():
            together = graph(images)
    except Exception:  # a shape fixed inside can fail in any operator
        return False
    if together.shape != single.shape:
        return False
    return bool((together - single).abs().max() <= TOLERANCE * single.abs().max())


def _import(name: str) -> Any:
    """Imports a package of the extra ``onnx``."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ImportError(
            f"ONNX files need the package {error.name}, which is not installed; install the "
            'extra: pip install "captum-face[onnx]"'
        ) from error
    except Exception as error:  # torchvision of another build fails with a RuntimeError
        raise ImportError(
            f"ONNX files need {name}, whose import failed: {error}. If it names torchvision, its "
            f"build does not match torch {torch.__version__}: install torch and torchvision "
            "together, from the same index"
        ) from error


def _read(path: Path) -> Any:
    onnx = _import("onnx")
    try:
        model = onnx.load(str(path))
    except Exception as error:
        if "external" in str(error).lower() or "should be stored in" in str(error):
            raise ValueError(
                f"{path} keeps its weights in another file, which cannot be read: {error}. Put that file "
                "beside the .onnx file, under the name it was exported with"
            ) from error
        raise ValueError(
            f"cannot read {path} as an ONNX file ({type(error).__name__}: {error}); PyTorch "
            "weights are opened by captum_face.models.load_weights"
        ) from error
    if not model.graph.node:  # protobuf takes an empty file for an empty model
        raise ValueError(f"expected an ONNX network in {path}, got a file without any operator")
    return model


def _shape(value: Any) -> list[int | None]:
    """The shape of a graph's input or output, None where it is open."""
    dimensions = value.type.tensor_type.shape.dim
    return [d.dim_value if d.dim_value > 0 else None for d in dimensions]


def _image_input(model: Any, path: Path) -> tuple[int | None, tuple[int, int] | None]:
    """The fixed batch and the fixed image size of the graph, None where they are open."""
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    shapes = {value.name: _shape(value) for value in inputs}
    floats = all(value.type.tensor_type.elem_type in (1, 10, 11, 16) for value in inputs)
    shape = next(iter(shapes.values()), [])
    if len(inputs) != 1 or not floats or len(shape) != 4 or shape[1] not in (3, None):
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items()) or "none"
        raise ValueError(
            f"expected one floating-point image input (N, 3, H, W) in {path}, got: {listed}"
            f"{'' if floats else ', not all floating point'}; export the model with such an input"
        )
    height, width = shape[2:]
    return shape[0], (height, width) if height and width else None


def _select_output(model: Any, output: str | None, path: Path) -> str:
    """Leaves the graph one output and returns its name."""
    outputs = {value.name: value for value in model.graph.output}
    if output is None and len(outputs) == 1:
        return next(iter(outputs))
    if output is None or output not in outputs:
        listed = ", ".join(f"{name!r} {_shape(value)}" for name, value in outputs.items())
        asked = "several" if output is None else f"no {output!r}"
        raise ValueError(
            f"expected one embedding output (N, D) in {path}, got {asked}: choose by output= one of {listed}"
        )
    chosen = outputs[output]
    del model.graph.output[:]
    model.graph.output.append(chosen)
    return output


def _repair(model: Any, path: Path) -> tuple[Any, list[str]]:
    """The graph in terms that onnx2torch knows, and what it does otherwise than the file says."""
    _import("torchvision")  # first and alone, so that a broken build is told apart
    registry = _import("onnx2torch.node_converters")

    def known(operator: str, version: int) -> bool:
        try:
            return bool(registry.get_converter(operator, version))
        except NotImplementedError:
            return False

    try:
        return repaired(model, known)
    except Exception as error:
        raise _cannot_convert(path, error) from error


def _convert(model: Any, path: Path) -> nn.Module:
    try:
        return _import("onnx2torch").convert(model)
    except ImportError:
        raise
    except Exception as error:
        raise _cannot_convert(path, error) from error


def _cannot_convert(path: Path, error: Exception) -> ValueError:
    operator = re.search(r"operation_type='(\w+)', version=(\d+)", str(error))
    reason = f"{type(error).__name__}: {error}"
    if operator:
        reason = f"onnx2torch does not know its operator {operator[1]} (version {operator[2]})"
    return ValueError(f"cannot convert {path} to PyTorch: {reason}. {CORRRISE}")
