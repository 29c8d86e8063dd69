"""Results as they are made: one line of JSON for each method and pair, so that a killed run can go on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

__all__ = ["Recorder", "check_config", "read_records", "write_atomically"]

Record = dict[str, Any]


def read_records(folder: Path) -> list[Record]:
    """All complete records of a folder; a line that a kill cut off is left out."""
    records = []
    for path in sorted(folder.glob("records-*.jsonl")):
        with path.open("rb") as file:
            records += [json.loads(line) for line in file if line.endswith(b"\n")]
    return records


class Recorder:
    """Appends records to this process' own file.

    Args:
        folder: Where it lies.
        rank: Which process this is.
    """

    def __init__(self, folder: Path, rank: int) -> None:
        self._file = (folder / f"records-{rank}.jsonl").open("a+b")
        self._drop_cut_line()

    def _drop_cut_line(self) -> None:
        self._file.seek(0)
        whole = self._file.read().rfind(b"\n") + 1
        self._file.truncate(whole)
        self._file.seek(whole)

    def write(self, record: Record) -> None:
        """Writes one record as one line; it outlives the process from here on."""
        self._file.write(json.dumps(record).encode() + b"\n")
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def check_config(path: Path, config: dict[str, Any], *, write: bool) -> None:
    """Compares a run's configuration with the one a folder was begun with.

    Args:
        path: The folder's ``config.json``.
        config: What is to run now.
        write: Write it where there is none yet.

    Raises:
        ValueError: the folder holds another run; the message says what differs.
    """
    config = json.loads(json.dumps(config))
    if path.exists():
        try:
            there = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(f"expected the configuration of a run in {path}, got: {error}") from error
        differing = list(_differences(there, config))
        if differing:
            raise ValueError(
                f"{path.parent} holds another run; choose another output folder, or repeat the command it "
                "was begun with. What differs: " + "; ".join(differing)
            )
    elif any(path.parent.glob("records-*.jsonl")):
        raise ValueError(f"{path.parent} holds records without a {path.name}; choose another output folder")
    elif write:
        write_atomically(path, json.dumps(config, indent=2) + "\n")


def _differences(there: Any, now: Any, name: str = "") -> Iterable[str]:
    if isinstance(there, dict) and isinstance(now, dict):
        for key in [*there, *(key for key in now if key not in there)]:
            inner = f"{name}.{key}" if name else str(key)
            if key not in there or key not in now:
                yield f"{inner} is {'new' if key in now else 'gone'}"
            else:
                yield from _differences(there[key], now[key], inner)
    elif there != now:
        yield f"{name} was {there!r}, is {now!r}"


def write_atomically(path: Path, text: str) -> None:
    """Writes a whole file or nothing: a kill never leaves half of one."""
    beside = path.with_name(f".{path.name}.part")
    beside.write_text(text, encoding="utf-8", newline="")
    os.replace(beside, path)
