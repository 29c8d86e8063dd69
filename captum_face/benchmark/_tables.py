"""From records to tables: means, intervals, and whether a method beats those that explain nothing."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from captum_face.attr.registry import null_baselines
from captum_face.benchmark.metric import Metric
from captum_face.benchmark.published import PUBLISHED, Published

__all__ = ["FEWEST", "Row", "beside_published", "curve_rows", "flat", "metric_rows", "subsets", "to_csv"]

# Resamples of the bootstrap.
_N_BOOTSTRAP = 2000

# Differences below which their interval is not given. Percentile intervals are too narrow for few values: of
# methods no better than chance, 6 % would pass with 6 pairs, where 2.5 % should.
FEWEST = 10


@dataclass(frozen=True)
class Row:
    """One method by one metric on one subset."""

    method: str  #: label
    metric: Metric
    subset: str
    n_pairs: int  #: pairs in the mean
    n_failed: int  #: pairs of the subset that the method could not explain or the metric not score
    mean: float
    standard_error: float  #: of the mean; NaN for a single pair
    interval: tuple[float, float]  #: bootstrap, 95 %, over pairs; NaN for a single pair
    #: Mean difference to each null baseline on the pairs that both have, positive = better than it, and
    #: its bootstrap interval of 95 %, NaN for fewer than 10 pairs: too few to tell it from chance.
    gains: Mapping[str, tuple[float, float, float]]

    @property
    def decided(self) -> bool:
        """Whether there are enough pairs to tell it from the null baselines."""
        return set(self.gains) == set(null_baselines()) and not any(
            math.isnan(low) for _, low, _ in self.gains.values()
        )

    @property
    def beats_null(self) -> bool:
        """Whether it is better than every null baseline beyond the interval of the paired difference."""
        return self.decided and all(low > 0 for _, low, _ in self.gains.values())


def subsets(same: Sequence[bool], accepted: Sequence[bool]) -> dict[str, list[int]]:
    """The pairs' indices by class and by decision; a subset without pairs is left out."""
    named = {
        "all": [True] * len(same),
        "genuine": list(same),
        "impostor": [not s for s in same],
        "genuine accepted": [s and a for s, a in zip(same, accepted, strict=True)],
        "genuine rejected": [s and not a for s, a in zip(same, accepted, strict=True)],
        "impostor accepted": [not s and a for s, a in zip(same, accepted, strict=True)],
        "impostor rejected": [not s and not a for s, a in zip(same, accepted, strict=True)],
    }
    chosen = {name: [i for i, take in enumerate(flags) if take] for name, flags in named.items()}
    return {name: indices for name, indices in chosen.items() if indices}


def metric_rows(
    records: Iterable[Mapping[str, Any]],
    methods: Sequence[str],
    metrics: Sequence[Metric],
    groups: Mapping[str, Sequence[int]],
    seed: int,
) -> list[Row]:
    """One row for each method, metric and subset in which the metric applies to a pair.

    Intervals are percentiles of 2000 bootstrap means over pairs; the resamples are the same for all
    methods, and differences to the null baselines are taken pair by pair.
    """
    values, failed = _collect(records)
    rows = []
    for metric in metrics:
        name = metric.name
        for subset, indices in groups.items():
            by_method = {
                method: {i: v for i in indices if (v := values.get((method, i), {}).get(name)) is not None}
                for method in methods
            }
            for method in methods:
                own = by_method[method]
                n_failed = sum(name in failed.get((method, i), ()) for i in indices)
                if not own and not n_failed:
                    continue
                rows.append(
                    Row(
                        method,
                        metric,
                        subset,
                        len(own),
                        n_failed,
                        *_summary(list(own.values()), seed),
                        {
                            null: _gain(own, by_method[null], metric.better, seed)
                            for null in null_baselines()
                            if by_method[null].keys() & own.keys()
                        },
                    )
                )
    return rows


def _collect(
    records: Iterable[Mapping[str, Any]],
) -> tuple[dict[tuple[str, int], Mapping[str, float | None]], dict[tuple[str, int], list[str]]]:
    values: dict[tuple[str, int], Mapping[str, float | None]] = {}
    failed: dict[tuple[str, int], list[str]] = {}
    for record in records:
        key = (record["method"], record["pair"])
        values[key] = {name: measured["value"] for name, measured in record["measured"].items()}
        failed[key] = list(record["errors"])
    return values, failed


def _resampled_means(values: Sequence[float], seed: int) -> np.ndarray:
    own = np.asarray(values)
    # In parts, so that no more of the counts than one of them is there in double precision.
    parts = np.array_split(_counts(len(values), seed), _N_BOOTSTRAP // 100)
    return np.concatenate([part.astype(float) @ own for part in parts]) / len(values)


@lru_cache(maxsize=8)
def _counts(n: int, seed: int) -> np.ndarray:
    """How often each of ``n`` pairs is drawn in each resample; the same for all methods and metrics."""
    rng = np.random.default_rng(seed)
    draws = (rng.integers(n, size=n) for _ in range(_N_BOOTSTRAP))
    # None is drawn anywhere near 65,536 times; for 6,000 pairs this has 24 MB.
    return np.stack([np.bincount(draw, minlength=n).astype(np.uint16) for draw in draws])


def _summary(values: Sequence[float], seed: int) -> tuple[float, float, tuple[float, float]]:
    if not values:
        return math.nan, math.nan, (math.nan, math.nan)
    error = float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan
    return float(np.mean(values)), error, _interval(values, seed, fewest=2)


def _interval(values: Sequence[float], seed: int, *, fewest: int) -> tuple[float, float]:
    if len(values) < fewest:
        return math.nan, math.nan
    low, high = np.percentile(_resampled_means(values, seed), [2.5, 97.5])
    return float(low), float(high)


def _gain(
    own: Mapping[int, float], null: Mapping[int, float], better: str, seed: int
) -> tuple[float, float, float]:
    sign = 1 if better == "higher" else -1
    differences = [sign * (value - null[i]) for i, value in own.items() if i in null]
    return float(np.mean(differences)), *_interval(differences, seed, fewest=FEWEST)


def curve_rows(
    records: Sequence[Mapping[str, Any]],
    methods: Sequence[str],
    metrics: Sequence[str],
    groups: Mapping[str, Sequence[int]],
    same: Sequence[bool],
    threshold: float,
) -> list[dict[str, Any]]:
    """Mean score, its standard error and the accuracy at every fraction of every curve."""
    by_key = {(record["method"], record["pair"]): record["measured"] for record in records}
    rows = []
    for name in metrics:
        for subset, indices in groups.items():
            for method in methods:
                found = {
                    i: curve
                    for i in indices
                    if len(curve := by_key.get((method, i), {}).get(name, {}).get("curve", ()))
                }
                if not found:
                    continue
                scores = np.array(list(found.values()))
                genuine = np.array([same[i] for i in found])
                accuracy = ((scores >= threshold) == genuine[:, None]).mean(0)
                error = (
                    scores.std(0, ddof=1) / math.sqrt(len(scores))
                    if len(scores) > 1
                    else np.full(scores.shape[1], math.nan)
                )
                for step in range(scores.shape[1]):
                    rows.append(
                        {
                            "method": method,
                            "metric": name,
                            "subset": subset,
                            "fraction": step / (scores.shape[1] - 1),
                            "score": scores[:, step].mean(),
                            "score_standard_error": error[step],
                            "accuracy": accuracy[step],
                            "n_pairs": len(scores),
                        }
                    )
    return rows


def beside_published(rows: Sequence[Row]) -> list[tuple[Published, str, dict[str, str]]]:
    """Each published value of a run's metrics, a method's label, and its values by subset, in percent.

    A value stands beside every variant of its method, as the papers smoothed some of their maps.
    """
    measured = {row.metric.name for row in rows}
    found = []
    for value in PUBLISHED:
        if value.metric not in measured:
            continue
        labels = dict.fromkeys(row.method for row in rows if row.method.split(":")[0] == value.method)
        for label in labels or [value.method]:
            own = {
                row.subset: f"{100 * row.mean:.2f}"
                for row in rows
                if (row.method, row.metric.name) == (label, value.metric) and row.n_pairs
            }
            found.append((value, label, own))
    return found


def flat(row: Row, threshold: float, seed: int) -> dict[str, Any]:
    """A row as the columns of ``metrics.csv``, the protocol included."""
    definition = row.metric.definition()
    protocol = {key: definition.get(key, "") for key in _PROTOCOL}
    gains = {
        f"better_than_{null}{end}": row.gains[null][place] if null in row.gains else math.nan
        for null in null_baselines()
        for place, end in enumerate(("", "_low", "_high"))
    }
    return {
        "method": row.method,
        "metric": row.metric.name,
        "subset": row.subset,
        "statistic": row.metric.statistic,
        "better": row.metric.better,
        "meant_for": row.metric.subset,
        "n_pairs": row.n_pairs,
        "n_failed": row.n_failed,
        "mean": row.mean,
        "standard_error": row.standard_error,
        "interval_low": row.interval[0],
        "interval_high": row.interval[1],
        **gains,
        "beats_null": "yes" if row.beats_null else "no",
        **protocol,
        "threshold": threshold,
        "seed": seed,
        **{key: value for key, value in definition.items() if key not in protocol},
    }


# The columns that define a protocol, of all metrics; further ones of a metric come last.
_PROTOCOL = ("perturb", "mode", "order", "fill", "n_steps", "n_patches", "patch_size", "layout", "central")


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV text; numbers with 6 significant digits, NaN and what a row lacks as nothing."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    columns = list(dict.fromkeys(key for row in rows for key in row))
    if rows:
        writer.writerow(columns)
    writer.writerows([_cell(row.get(key, "")) for key in columns] for row in rows)
    return buffer.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return value
