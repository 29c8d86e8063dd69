"""What a run found."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from captum_face.benchmark._tables import Row, beside_published
from captum_face.benchmark.measures import METRICS

__all__ = ["BenchmarkResult"]


@dataclass(frozen=True, eq=False)
class BenchmarkResult:
    """What a run found; made by :func:`~captum_face.benchmark.benchmark`."""

    folder: Path  #: where the tables and the report are
    rows: list[Row]  #: one for each method, metric and subset
    curves: list[dict[str, Any]]  #: the rows of ``curves.csv``
    config: dict[str, Any]  #: everything that defines the run
    failures: list[str]  #: what failed, one line for each pair and method
    n_reused: int  #: values, of a method by a metric on a pair, that an earlier run had left in the folder
    #: What images look like that fail their check (:func:`~captum_face.data.check_faces`), by name. They are
    #: measured like all others.
    unaligned: dict[str, str] = field(default_factory=dict)

    @property
    def n_computed(self) -> int:
        """Values that this call computed, those that failed or do not apply included."""
        asked = self.config["pairs"]["n"] * len(self.config["methods"]) * len(self.config["metrics"])
        return int(asked) - self.n_reused

    def text(self) -> str:
        """The main table as plain text: means on the pairs each metric is meant for.

        ``+`` marks what beats both null baselines beyond the interval of the paired difference. Below it
        the papers' values beside the run's, if it measured by their protocols.
        """
        own = [row for row in self.rows if row.subset == row.metric.subset]
        metrics = list(dict.fromkeys(row.metric.name for row in own))
        cells = {
            (row.method, row.metric.name): f"{row.mean:.3f}{'+' if row.beats_null else ' '}"
            if row.n_pairs
            else "failed "
            for row in own
        }
        methods = list(dict.fromkeys(row.method for row in own))
        width = max(map(len, ["method", *methods]))
        lines = [f"{'method':{width}}  " + "  ".join(f"{name:>9}" for name in metrics)]
        for method in methods:
            columns = (f"{cells.get((method, name), ''):>{max(9, len(name))}}" for name in metrics)
            lines.append(f"{method:{width}}  " + "  ".join(columns))
        published = [
            f"{label} {value.metric}: {value.percent:.2f} ({value.source}), here "
            f"{here.get(METRICS[value.metric].subset, 'not measured')}"
            for value, label, here in beside_published(self.rows)
        ]
        if published:
            lines += ["", "Published, in percent, with other networks and pairs:", *published]
        return "\n".join(line.rstrip() for line in lines)

    def value(self, method: str, metric: str, subset: str | None = None) -> float:
        """The mean of one method by one metric, on the subset it is meant for unless told otherwise.

        Raises:
            ValueError: no such row.
        """
        for row in self.rows:
            if (row.method, row.metric.name) == (method, metric) and row.subset == (
                subset or row.metric.subset
            ):
                return row.mean
        raise ValueError(
            f"expected a row of {method!r} by {metric!r} on {subset or 'its own subset'!r} in the table, "
            "found none"
        )
