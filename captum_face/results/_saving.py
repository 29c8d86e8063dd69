"""How results are written to files, and what is said in them of how they were made."""

from __future__ import annotations

import json
import platform
import re
from pathlib import Path
from typing import Any

import captum
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from captum_face._files import write_text, write_whole
from captum_face._version import __version__
from captum_face.attr.spec import MethodSpec, describe
from captum_face.pair.similarity import PairSimilarity

__all__ = ["file_name", "jsonable", "save_result", "settings", "versions"]


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
    write_whole(paths["figure"], lambda path: figure.savefig(path, format="png"))
    write_text(paths["summary"], text + "\n")


def file_name(label: str) -> str:
    """A method's label as every file system takes it."""
    return re.sub(r"[^\w.,=+-]", "_", label)


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
        "embedding_model": type(pair.embedding_model).__name__,
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
