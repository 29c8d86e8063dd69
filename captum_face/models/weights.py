"""Weights from files: safe to open, under common wrappers and prefixes, all or nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

__all__ = ["load_weights"]

CONTAINERS = ("state_dict", "model_state_dict", "model", "net", "network", "backbone", "encoder")
PREFIXES = ("module.", "model.", "backbone.", "net.", "encoder.", "features.", "_orig_mod.")

Model = TypeVar("Model", bound=nn.Module)


def load_weights(model: Model, path: str | Path) -> Model:
    """Loads the weights of a file into a model, all of them or none.

    Reads ``.safetensors`` and whatever ``torch.save`` wrote (``.pt``, ``.pth``, ``.ckpt``), the
    latter always with ``weights_only=True``: a file can not run code. The model keeps its device
    and precision, and its training flag.

    Training scripts wrap a network in many ways, so two things are undone:

    - A checkpoint that holds the state dict under ``state_dict``, ``model_state_dict``, ``model``,
      ``net``, ``network``, ``backbone`` or ``encoder`` is unwrapped.
    - The prefixes ``module.``, ``model.``, ``backbone.``, ``net.``, ``encoder.``, ``features.`` and
      ``_orig_mod.`` (of ``torch.compile``), also several in a row, are removed where more names fit the
      model without them (of several that fit equally well, the first in this order). Then **only the
      entries with that prefix are taken**: what a training wrapper holds beside the network is left
      out, such as ``head.kernel`` in AdaFace's checkpoints, whose network is under ``model.``.

    Everything else is strict. Only BatchNorm's ``num_batches_tracked``, a counter that inference
    does not use, may be absent.

    Args:
        model: The network, of the architecture that the weights were trained with.
        path: The file.

    Returns:
        ``model`` itself.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is unreadable, holds other things than weights, or its weights do not
            fit the model (the message names missing, unexpected and mis-shaped entries). The model
            is then unchanged.

    Examples::

        >>> import tempfile
        >>> model = nn.Linear(3, 2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder, "checkpoint.pth")
        ...     torch.save({"state_dict": nn.DataParallel(model).state_dict(), "epoch": 9}, file)
        ...     copy = load_weights(nn.Linear(3, 2), file)
        >>> torch.equal(copy.weight, model.weight)
        True
    """
    path = Path(path)
    own = model.state_dict()
    found = _state_dict(_read(path), path)
    # max() returns the first of equals, hence the variant with the fewest prefixes removed
    prefix, state = max(_variants(found), key=lambda variant: len(own.keys() & variant[1].keys()))
    for name in own.keys() ^ state.keys():
        if name.endswith("num_batches_tracked"):
            if name in own:
                state[name] = own[name]
            else:
                del state[name]

    problems = _problems(own, state)
    if problems:
        removed = f" (names without their prefix {prefix!r})" if prefix else ""
        raise ValueError(
            f"the weights in {path} do not fit {type(model).__name__}{removed}: "
            f"{'; '.join(problems)}. Expected the state dict of exactly this architecture: choose "
            "the model (depth, embedding size) that the weights were trained with, or rename the "
            "entries and save the dict again"
        )
    model.load_state_dict(state, strict=True)
    return model


def _read(path: Path) -> object:
    if not path.is_file():
        what = "a folder" if path.is_dir() else "nothing"
        raise FileNotFoundError(f"expected a file of weights at {path}, found {what}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # every format has its own exceptions for broken files
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused:
            raise ValueError(
                f"{path} holds more than tensors ({refused[1]}), and unpickling such objects can "
                "run code, so it was not opened. If you trust its source, save the weights alone: "
                'torch.save(torch.load(path, weights_only=False)["state_dict"], "weights.pth")'
                " (or .state_dict() of a whole saved model)"
            ) from error
        with path.open("rb") as file:
            start = file.read(16)
        if path.suffix == ".onnx":
            hint = "ONNX files are opened by captum_face.models.load_onnx"
        else:
            hint = "check that the download is complete and that this is the file of weights"
        raise ValueError(
            f"cannot read weights from {path}: expected a .safetensors file or a state dict saved "
            f"by torch.save (.pt, .pth, .ckpt), got {path.stat().st_size} bytes that start with "
            f"{start!r} ({type(error).__name__}); {hint}"
        ) from error


def _state_dict(content: object, path: Path) -> dict[str, Tensor]:
    if isinstance(content, Mapping):
        for key in CONTAINERS:
            if isinstance(content.get(key), Mapping):
                return _state_dict(content[key], path)
        # counters and the like may stand beside the tensors
        state = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
        if state:
            return state
        got = f"a dict of {_some(list(map(str, content))) or 'nothing'}"
    else:
        got = f"a {type(content).__name__}"
    raise ValueError(
        f"expected a state dict (names to tensors) in {path}, at the top or under one of "
        f"{', '.join(CONTAINERS)}; got {got}. Save model.state_dict()"
    )


def _variants(state: dict[str, Tensor], removed: str = "") -> Iterator[tuple[str, dict[str, Tensor]]]:
    yield removed, state
    for prefix in PREFIXES:
        inner = {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}
        if inner:
            yield from _variants(inner, removed + prefix)


def _problems(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    shapes = [
        f"{name}: file {tuple(state[name].shape)}, model {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    broken = [name for name, value in state.items() if name in own and not torch.isfinite(value).all()]
    return [
        f"{len(names)} {what} ({_some(names)})"
        for names, what in (
            (missing, f"of {len(own)} missing"),
            (unexpected, "unexpected"),
            (shapes, "of another shape"),
            (broken, "with NaN or infinite values"),
        )
        if names
    ]


def _some(names: Sequence[str], at_most: int = 3) -> str:
    return ", ".join(names[:at_most]) + (", ..." if len(names) > at_most else "")
