"""Writing files that a killed process must not leave half done."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

__all__ = ["printable", "write_text", "write_whole"]


def write_whole(path: Path, save: Callable[[Path], object]) -> None:
    """Writes a file wholly or not at all, whenever the process may be killed.

    Args:
        path: The file.
        save: Writes to the path that it is given.
    """
    # With the process' number, as several of them may write the same file.
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        unfinished.touch()
        mode = unfinished.stat().st_mode  # as the user wants files: safetensors writes for the owner alone
        save(unfinished)
        unfinished.chmod(mode)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def printable(name: str) -> str:
    """A file's name as text that figures and JSON hold: bytes that are none are written as ``\\udce9``."""
    return name.encode(errors="backslashreplace").decode()


def write_text(path: Path, text: str) -> None:
    """:func:`write_whole` of a text, with the line ends that it has, see :func:`printable`."""
    data = printable(text).encode()
    write_whole(path, lambda unfinished: unfinished.write_bytes(data))
