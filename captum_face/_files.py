"""Writing files that a killed process must not leave half done."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["printable", "write_tensors", "write_text", "write_whole"]


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


def write_tensors(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> None:
    """:func:`write_whole` of a ``.safetensors`` file: equal tensors and facts give equal bytes."""
    from safetensors.torch import save

    data = save(dict(tensors), metadata=dict(facts))
    # Its library writes the facts in an order that differs from process to process.
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin at a multiple of 8 bytes
    write_whole(
        path,
        lambda unfinished: unfinished.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :]),
    )
