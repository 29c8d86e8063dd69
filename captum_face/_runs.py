"""Runs of many parts that a later call continues: a folder, its configuration, and lines of JSON."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from captum_face._files import write_text

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows has none; there nobody watches over two runs in one folder
    fcntl = None

__all__ = ["Recorder", "claimed", "require_same", "write_config"]


@contextlib.contextmanager
def claimed(folder: Path, *, first: bool) -> Iterator[None]:
    """Makes a folder for a run, and keeps others from running in it meanwhile.

    Args:
        folder: The run's folder.
        first: Whether this is the first of the run's processes; it speaks for all.

    Raises:
        OSError: the folder cannot be made or written into.
        ValueError: another run is at work there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Where this file cannot be written, nothing can; better known before the work than after it. The lock
    # ends with the process, however that ends.
    name = ".lock" if first else f".lock-{os.getpid()}"
    with (folder / name).open("ab") as file:
        if first and fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(
                    f"another run is at work in {folder}; wait for it, or choose another output folder"
                ) from None
            except OSError:  # a network folder that knows no locks
                pass
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # Windows keeps open files
                (folder / name).unlink()


class Recorder:
    """Appends records to a file, which no other process writes meanwhile.

    Args:
        path: A ``.jsonl`` file; what a kill cut off at its end is removed.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("a+b")
        self._drop_cut_line()

    def _drop_cut_line(self) -> None:
        self._file.seek(0)
        whole = self._file.read().rfind(b"\n") + 1
        self._file.truncate(whole)
        self._file.seek(whole)

    def write(self, record: dict[str, Any]) -> None:
        """Writes one record as one line; it outlives the process from here on."""
        self._file.write(json.dumps(record).encode() + b"\n")
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def require_same(there: dict[str, Any], now: dict[str, Any], message: str) -> None:
    """Checks that two configurations are equal.

    Raises:
        ValueError: they are not: the message, and what differs.
    """
    differing = list(_differences(*(json.loads(json.dumps(config)) for config in (there, now))))
    if differing:
        raise ValueError(f"{message}. What differs: {'; '.join(differing)}")


def write_config(path: Path, config: dict[str, Any]) -> None:
    """Writes a configuration wholly or not at all."""
    write_text(path, json.dumps(config, indent=2) + "\n")


def _differences(there: Any, now: Any, name: str = "") -> Iterator[str]:
    if isinstance(there, dict) and isinstance(now, dict):
        for key in [*there, *(key for key in now if key not in there)]:
            inner = f"{name}.{key}" if name else str(key)
            if key not in there or key not in now:
                yield f"{inner} is {'new' if key in now else 'gone'}"
            else:
                yield from _differences(there[key], now[key], inner)
    elif there != now:
        yield f"{name} was {there!r}, is {now!r}"
