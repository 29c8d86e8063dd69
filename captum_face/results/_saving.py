"""How results are written to files, and what is said in them of how they were made."""

from __future__ import annotations

import hashlib
import json
import platform
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import captum
import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.figure import Figure
from torch import Tensor

from captum_face._files import write_text, write_whole
from captum_face._version import __version__
from captum_face.attr.spec import MethodSpec, describe
from captum_face.pair.similarity import PairSimilarity

__all__ = [
    "ENDINGS",
    "FORMATS",
    "file_name",
    "jsonable",
    "label_of",
    "save_figure",
    "save_result",
    "settings",
    "versions",
]

#: What figures are saved as.
FORMATS = ("png", "pdf", "svg")
#: Of the files beside the figure.
ENDINGS = {"maps": ".npz", "summary": ".json"}
_LONGEST_PART = 30  # bytes of a name in the name of a file, which shall stay readable


def save_result(
    paths: dict[str, Path],
    arrays: dict[str, np.ndarray],
    figure: Figure,
    summary: dict[str, Any],
    figure_options: dict[str, Any],
) -> None:
    """Writes maps, figure and summary of a result, each of them wholly or not at all."""
    summary = summary | {"figure": {name: jsonable(value) for name, value in figure_options.items()}}
    text = json.dumps(summary, indent=2, ensure_ascii=False, default=str)

    def save_maps(path: Path) -> None:
        with path.open("wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type] # its last option is a bool

    write_whole(paths["maps"], save_maps)
    save_figure(figure, paths["figure"])
    write_text(paths["summary"], text + "\n")


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a figure wholly or not at all, in the format of its ending; equal figures give equal bytes."""
    kind = path.suffix.lstrip(".").lower()
    undated = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(kind)
    with rc_context({"svg.hashsalt": "captum_face"}):
        write_whole(path, lambda unfinished: figure.savefig(unfinished, format=kind, metadata=undated))


def file_name(label: str) -> str:
    """A method's label as every file system takes it."""
    return re.sub(r"[^\w.,=+-]", "_", label)


def label_of(names: Sequence[str], images: Iterable[Tensor], others: Iterable[str] = ()) -> str:
    """How the names of a result's files begin: what its images are called, and eight digits of what they are.

    Two results have different labels: names that differ in what a file system does not tell apart, or that
    are equal in two folders, have different digits.

    Args:
        names: What the images are called.
        images: The images.
        others: What else tells the result from another of the same images.

    Example::

        >>> label_of(["010_1.png", "Ann Müller.jpg"], [torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 4, 4)])
        '010_1__Ann_Müller-3464b437'
    """
    digest = hashlib.sha256()
    for text in (*names, *others):
        digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
    for image in images:
        digest.update(repr(tuple(image.shape)).encode())
        digest.update(image.detach().cpu().double().contiguous().numpy().tobytes())
    return f"{'__'.join(map(_short_stem, names))}-{digest.hexdigest()[:8]}"


def _short_stem(name: str) -> str:
    """A file's name without its ending and folder; the end of a long one, which tells files apart."""
    stem = re.sub(r"\.[A-Za-z]\w{1,4}$", "", re.split(r"[\\/]", name)[-1])
    safe = file_name(stem).encode("utf-8", "replace")[-_LONGEST_PART:].decode("utf-8", "ignore")
    return safe.lstrip("._-") or "image"


def settings(
    pair: PairSimilarity,
    spec: MethodSpec,
    options: dict[str, Any],
    image: Tensor,
    remarks: dict[str, str],
) -> dict[str, Any]:
    """What decides an explanation, the method's defaults and remarks included, as JSON can hold it."""
    defaults = {name: parameter.default for name, parameter in spec.kind.options().items()}
    chosen = {**defaults, **spec.arguments, **options}
    return {
        "options": {name: jsonable(value) for name, value in chosen.items() if name != "show_progress"},
        "smooth": spec.sigma,
        "score": pair.score.name,
        "precision": pair.precision,
        "alignment": pair.alignment,
        "preprocess": describe(pair.preprocess),
        "preprocess_guessed": getattr(pair, "preset_guess", None),
        "embedding_model": pair.model_name,
        "image_size": list(image.shape[-2:]),
        "remarks": remarks,
    }


def jsonable(value: Any) -> Any:
    """An option as JSON can hold it: tensors by shape, what is unknown by its repr without addresses."""
    if isinstance(value, Tensor):
        return f"tensor of shape {tuple(value.shape)}"
    if isinstance(value, (tuple, list)):
        return [jsonable(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else describe(value)


def versions() -> dict[str, str]:
    """Versions of what decides the numbers."""
    return {
        "captum_face": __version__,
        "captum": captum.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
