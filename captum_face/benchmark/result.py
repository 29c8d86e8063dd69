"""What a run found."""

from __future__ import annotations

import html
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from captum_face._notebook import paragraphs
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

    def text(self, width: int | None = None) -> str:
        """The main table as plain text: means on the pairs each metric is meant for.

        ``+`` marks what beats both null baselines beyond the interval of the paired difference. Below it
        the papers' values beside the run's, if it measured by their protocols.

        Args:
            width: Characters in a line; None for those of the terminal, 80 where there is none. Metrics that
                do not fit stand in a further table below, and a long label on a line of its own.
        """
        width = shutil.get_terminal_size().columns if width is None else width
        own = [row for row in self.rows if row.subset == row.metric.subset]
        cells = {
            (row.method, row.metric.name): f"{row.mean:.3f}{'+' if row.beats_null else ' '}"
            if row.n_pairs
            else "failed "
            for row in own
        }
        methods = list(dict.fromkeys(row.method for row in own))
        metrics = list(dict.fromkeys(row.metric.name for row in own))
        lines = _tables(methods, metrics, cells, width)
        published = [
            f"{label} {value.metric}: {value.percent:.2f} ({value.source}), here "
            f"{here.get(METRICS[value.metric].subset, 'not measured')}"
            for value, label, here in beside_published(self.rows)
        ]
        if published:
            lines += ["", "Published, in percent, with other networks and pairs:"]
            for line in published:
                lines += textwrap.wrap(
                    line, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
                )
        return "\n".join(line.rstrip() for line in lines)

    def _repr_html_(self) -> str:
        report = self.folder / "report.html"
        where = [f"report: {report}"] if report.is_file() else [f"folder: {self.folder}"]
        return f"<pre>{html.escape(self.text())}</pre>{paragraphs(where)}"

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


def _tables(
    methods: Sequence[str], metrics: Sequence[str], cells: Mapping[tuple[str, str], str], width: int
) -> list[str]:
    """Lines of tables below each other, each of the metrics that fit beside the methods."""
    space = {name: 2 + max(9, len(name)) for name in metrics}
    # A label that would leave little to the values gets a line of its own.
    room = max(min(width - max(space.values(), default=0), 2 * width // 5), len("method"))
    label_width = max(len(label) for label in ("method", *methods) if len(label) <= room)
    lines: list[str] = []
    left = list(metrics)
    while left:
        n = 1
        while n < len(left) and label_width + sum(space[name] for name in left[: n + 1]) <= width:
            n += 1
        shown, left = left[:n], left[n:]
        lines += ["", f"{'method':{label_width}}"] if lines else [f"{'method':{label_width}}"]
        lines[-1] += "".join(f"{name:>{space[name]}}" for name in shown)
        for method in methods:
            own = "".join(f"{cells.get((method, name), ''):>{space[name]}}" for name in shown)
            fits = len(method) <= label_width
            lines += [f"{method:{label_width}}{own}"] if fits else [method, f"{'':{label_width}}{own}"]
    return lines
