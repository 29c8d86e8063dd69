"""Results as they are made: one line of JSON for each method and pair, so that a killed run can go on."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from captum_face._files import write_text

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows has none; there nobody watches over two runs in one folder
    fcntl = None

__all__ = ["Recorder", "check_config", "claimed", "merged", "read_records"]

# Scores differ by less with another number of threads or another processor, and so does a threshold.
_ROUNDING = 1e-5

_NO_CURVE = np.empty(0)

Record = dict[str, Any]


def read_records(folder: Path) -> Iterator[Record]:
    """All complete records of a folder; a line that a kill cut off is left out.

    Curves come as arrays, which take a quarter of the memory of lists.

    Warns:
        UserWarning: a line holds no record; what it held is to be computed again.
    """
    for path in sorted(folder.glob("records-*.jsonl")):
        damaged = []
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    continue
                record = _parsed(line)
                if record is None:
                    damaged.append(number)
                else:
                    yield record
        if damaged:
            shown = ", ".join(map(str, damaged[:5])) + (", ..." if len(damaged) > 5 else "")
            warnings.warn(
                f"{path} is damaged: no record in {len(damaged)} of its lines ({shown}); what they held is "
                "computed again",
                stacklevel=2,
            )


def _parsed(line: bytes) -> Record | None:
    """The record that a line holds, or None."""
    try:
        record: Record = json.loads(line)
        if not isinstance(record["errors"], dict):
            return None
        (int(record["pair"]), str(record["method"]), record["seconds"])
        # One name and one empty curve for all records: a run of 6,000 pairs has a hundred thousand of them.
        record["measured"] = {
            sys.intern(name): {
                "value": float(measured["value"]),
                "curve": np.asarray(measured["curve"], dtype=float) if measured["curve"] else _NO_CURVE,
            }
            for name, measured in record["measured"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return record


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


def merged(records: Iterable[Record]) -> list[Record]:
    """One record for each pair and method, in the order of pairs; what went well replaces what failed."""
    kept: dict[tuple[int, str], Record] = {}
    for record in records:
        key = (record["pair"], record["method"])
        if key not in kept or not record["errors"] or kept[key]["errors"]:
            kept[key] = record
    return [kept[key] for key in sorted(kept)]


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
        except ValueError as error:  # no JSON, or no text at all
            raise ValueError(
                f"expected the configuration of a run in {path}, which is damaged ({error}); choose another "
                "output folder"
            ) from error
        differing = list(_differences(there, config))
        if differing:
            raise ValueError(
                f"{path.parent} holds another run; choose another output folder, or repeat the command it "
                "was begun with. What differs: " + "; ".join(differing)
            )
    elif any(path.parent.glob("records-*.jsonl")):
        raise ValueError(f"{path.parent} holds records without a {path.name}; choose another output folder")
    elif write:
        write_text(path, json.dumps(config, indent=2) + "\n")


def _differences(there: Any, now: Any, name: str = "") -> Iterable[str]:
    if isinstance(there, dict) and isinstance(now, dict):
        for key in [*there, *(key for key in now if key not in there)]:
            inner = f"{name}.{key}" if name else str(key)
            if key not in there or key not in now:
                yield f"{inner} is {'new' if key in now else 'gone'}"
            else:
                yield from _differences(there[key], now[key], inner)
    elif name == "threshold.value" and math.isclose(there, now, rel_tol=_ROUNDING, abs_tol=_ROUNDING):
        return
    elif there != now:
        yield f"{name} was {there!r}, is {now!r}"
