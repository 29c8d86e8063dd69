"""Weights from files: safe to open, under common wrappers and prefixes, all or nothing."""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

__all__ = ["load_weights"]

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

Model = TypeVar("Model", bound=nn.Module)


def load_weights(model: Model, path: str | Path, *, key: str | None = None) -> Model:
    """Loads the weights of a file into a model, all of them or none.

    Reads ``.safetensors`` and whatever ``torch.save`` wrote (``.pt``, ``.pth``, ``.ckpt``), the
    latter always with ``weights_only=True``: a file can not run code. The model keeps its device
    and precision, and its training flag.

    Training scripts wrap a network in many ways. The dict whose names fit the model is searched for:

    - under any keys, at any depth: ``state_dict``, ``model``, ``net``, ``params_ema`` and the like;
    - behind any prefix of its names, such as ``module.``, ``backbone.`` or ``module._orig_mod.``. Then **only
      the entries with that prefix are taken**: what a training wrapper holds beside the network is left
      out, such as ``head.kernel`` in AdaFace's checkpoints, whose network is under ``model.``.

    Where several fit and differ, such as ``student`` and ``teacher``, the first of the least nested is taken
    and a warning names the others.

    Everything else is strict. Only BatchNorm's ``num_batches_tracked``, a counter that inference
    does not use, may be absent.

    Args:
        model: The network, of the architecture that the weights were trained with.
        path: The file. Half precision is read into the model's precision.
        key: Where the weights lie in the file, such as ``"ema"`` or ``"state_dict.teacher"``: keys and
            prefix, joined by dots. Needed only to choose among several.

    Returns:
        ``model`` itself.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is unreadable, holds other things than weights, or its weights do not
            fit the model (the message names missing, unexpected and mis-shaped entries). The model
            is then unchanged.

    Warns:
        UserWarning: Several weights of the file fit the model, and ``key`` chooses none.

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
    content = _read(path)
    candidates = [
        _Candidate(place, prefix, inner, _problems(own, inner))
        for place, found in sorted(_state_dicts(content), key=lambda pair: len(pair[0]))
        for prefix, inner in _variants(found, own)
    ]
    if not candidates:
        got = _some([str(k) for k in content]) or "nothing" if isinstance(content, Mapping) else ""
        got = f"a dict of {got}" if isinstance(content, Mapping) else f"a {type(content).__name__}"
        raise ValueError(
            f"expected a state dict (names to tensors) in {path}, at the top or under any keys; got {got}. "
            "Save model.state_dict()"
        )
    if key is not None:
        asked = [c for c in candidates if c.name == key or c.name.startswith(f"{key}.")]
        if not asked:
            listed = _some([repr(c.name) for c in candidates if c.name], 8) or "weights at the top alone"
            raise ValueError(f"expected weights under key={key!r} in {path}, found {listed}")
        candidates = asked
    fitting = [c for c in candidates if not c.problems]
    # max() returns the first of equals, hence the least nested and that with the shortest prefix
    chosen = (
        fitting[0]
        if fitting
        else max(candidates, key=lambda c: (len(own.keys() & c.state.keys()), len(c.state)))
    )
    others = [c.name for c in fitting if not _equal(own, c.state, chosen.state)]
    if others:
        listed = ", ".join(repr(name) for name in others)
        warnings.warn(
            f"{path} holds several weights that fit {type(model).__name__}; took "
            f"{chosen.name or 'the top level'!r}, not {listed}. Choose by "
            f"load_weights(..., key={others[0]!r})",
            UserWarning,
            stacklevel=2,
        )
    if chosen.problems:
        removed = f" (names without their prefix {chosen.prefix!r})" if chosen.prefix else ""
        raise ValueError(
            f"the weights in {path} do not fit {type(model).__name__}{removed}: "
            f"{'; '.join(chosen.problems)}. Expected the state dict of exactly this architecture: choose "
            "the model (depth, embedding size) that the weights were trained with, or rename the "
            "entries and save the dict again"
        )
    state = {name: chosen.state.get(name, value) for name, value in own.items()}
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
        archive = _archive(path)
        if archive:
            what, save = archive
            raise ValueError(
                f"{path} is {what}, not a file of weights, and opening it can run code. If you trust "
                f"its source, save its weights alone: torch.save({save}, 'weights.pth')"
            ) from error
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


def _archive(path: Path) -> tuple[str, str] | None:
    """What a file of a whole program is, and the expression that takes its weights out."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError):
        return None
    if any("/code/" in name for name in names) and any(name.endswith("/constants.pkl") for name in names):
        return "a scripted model (torch.jit.save)", f"torch.jit.load({str(path)!r}).state_dict()"
    if any(name.endswith(("archive_format", "serialized_exported_program.json")) for name in names):
        return "an exported program (torch.export.save)", f"torch.export.load({str(path)!r}).state_dict"
    return None


class _Candidate(NamedTuple):
    place: tuple[str, ...]
    prefix: str
    state: dict[str, Tensor]
    problems: list[str]

    @property
    def name(self) -> str:
        return ".".join((*self.place, self.prefix)).rstrip(".")


def _state_dicts(
    content: object, place: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """Every dict with tensors in it, at any depth, with the keys that lead there."""
    if not isinstance(content, Mapping):
        return
    # counters and the like may stand beside the tensors
    state = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if state:
        yield place, state
    for name, value in content.items():
        yield from _state_dicts(value, (*place, str(name)))


def _variants(state: dict[str, Tensor], own: Mapping[str, Tensor]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """The dict as it is, and what is behind each prefix that leaves a name of the model."""
    prefixes = {""}
    for name in state:
        for dot in re.finditer(r"\.", name):
            if name[dot.end() :] in own:
                prefixes.add(name[: dot.end()])
    order = {prefix: i for i, prefix in enumerate(_first_seen(state, prefixes))}
    for prefix in sorted(prefixes, key=lambda p: (p.count("."), order.get(p, 0))):
        yield prefix, {n[len(prefix) :]: v for n, v in state.items() if n.startswith(prefix)}


def _first_seen(state: dict[str, Tensor], prefixes: set[str]) -> list[str]:
    return list(dict.fromkeys(p for name in state for p in prefixes if name.startswith(p)))


def _equal(own: Mapping[str, Tensor], one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(one[n].to(own[n]), other[n].to(own[n])) for n in own if n in one and n in other)


def _counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")


def _problems(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    missing = [name for name in own if name not in state and not _counter(name)]
    unexpected = [name for name in state if name not in own and not _counter(name)]
    shapes = [
        f"{name}: file {tuple(state[name].shape)}, model {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    shared = {name: value for name, value in state.items() if name in own}
    types = [
        f"{name}: {str(value.dtype).removeprefix('torch.')}"
        for name, value in shared.items()
        if own[name].is_floating_point() and value.dtype not in FLOATS
    ]
    broken = [n for n, value in shared.items() if value.dtype in FLOATS and not torch.isfinite(value).all()]
    return [
        f"{len(names)} {what} ({_some(names)})"
        for names, what in (
            (missing, f"of {len(own)} missing"),
            (unexpected, "unexpected"),
            (shapes, "of another shape"),
            (types, "of another type, as in quantised files, which cannot be read as float weights"),
            (broken, "with NaN or infinite values"),
        )
        if names
    ]


def _some(names: Sequence[str], at_most: int = 3) -> str:
    return ", ".join(names[:at_most]) + (", ..." if len(names) > at_most else "")
