"""Writing files that a killed process must not leave half done."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

__all__ = ["write_whole"]


def write_whole(path: Path, save: Callable[[Path], object]) -> None:
    """Writes a file wholly or not at all, whenever the process may be killed.

    Args:
        path: The file.
        save: Writes to the path that it is given.
    """
    unfinished = path.with_name(path.name + ".unfinished")
    save(unfinished)
    unfinished.chmod(0o644)  # safetensors writes for the owner alone, who is not who installs
    os.replace(unfinished, path)
