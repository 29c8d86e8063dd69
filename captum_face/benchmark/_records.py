"""Results as they are made: lines of JSON, each of a method on a pair, from which any later run goes on."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from captum_face._runs import require_same
from captum_face.benchmark._keys import Keys

__all__ = ["finished", "merged", "read_config", "read_records"]

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
        if not (isinstance(record["key"], str) and isinstance(record["errors"], dict)):
            return None
        record["seconds"]
        # One name and one empty curve for all records: a run of 6,000 pairs has a hundred thousand of them.
        record["tried"] = {sys.intern(name): sys.intern(key) for name, key in record["tried"].items()}
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


def merged(records: Iterable[Record], keys: Keys, metrics: Sequence[str]) -> list[Record]:
    """What records say of a run: one for each pair and method, in the order of pairs.

    Args:
        records: Of this run and of others. What went well replaces what failed.
        keys: The run's; what was computed under other ones is left out.
        metrics: The run's, in the order of its tables.
    """
    places = {key: place for place, key in keys.records.items()}
    kept: dict[tuple[int, str], Record] = {}
    for record in records:
        if record["key"] not in places:
            continue
        index, method = place = places[record["key"]]
        empty = {"pair": index, "method": method, "score": None, "seconds": None}
        empty |= {"tried": [], "measured": {}, "errors": {}}
        own = kept.setdefault(place, empty)
        for name, key in record["tried"].items():
            if keys.metrics.get(name) != key or name in own["tried"]:
                continue
            if name in record["errors"]:
                own["errors"][name] = record["errors"][name]
                continue
            own["tried"].append(name)
            own["errors"].pop(name, None)
            if name in record["measured"]:
                own["measured"][name] = record["measured"][name]
        own.update(
            {name: record[name] for name in ("score", "seconds", "maps") if record.get(name) is not None}
        )
    for record in kept.values():
        for part in ("measured", "errors"):
            record[part] = {name: record[part][name] for name in metrics if name in record[part]}
    return [kept[place] for place in sorted(kept)]


def finished(records: Iterable[Record]) -> set[tuple[int, str, str]]:
    """Pair, method and metric of what need not be done again."""
    return {(record["pair"], record["method"], name) for record in records for name in record["tried"]}


def read_config(path: Path, run: dict[str, Any]) -> dict[str, Any] | None:
    """The configuration of a folder's tables; None for a folder without any.

    Args:
        path: The folder's ``config.json``.
        run: What has to be the same in all runs of a folder.

    Raises:
        ValueError: the folder holds a run of another kind; the message says what differs.
    """
    if not path.exists():
        if any(path.parent.glob("records-*.jsonl")):
            raise ValueError(
                f"{path.parent} holds records without a {path.name}; choose another output folder"
            )
        return None
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(there, dict):
            raise ValueError(f"expected an object, got {there!r}")
    except ValueError as error:  # no JSON, or no text at all
        raise ValueError(
            f"expected the configuration of a run in {path}, which is damaged ({error}); choose another "
            "output folder"
        ) from error
    if there.get("format") != run["format"]:
        raise ValueError(
            f"{path.parent} holds a run of another version of captum_face, whose records cannot be used; "
            "choose another output folder"
        )
    require_same(
        {name: there.get(name) for name in run},
        run,
        f"{path.parent} holds another run; choose another output folder, or repeat the command it was begun "
        "with",
    )
    return there
