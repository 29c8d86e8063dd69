"""From records to rows: what few pairs, failures and a single pair can say."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from captum_face.benchmark import METRICS, BenchmarkResult, Metric
from captum_face.benchmark._tables import _interval, flat, metric_rows, subsets, to_csv


def records(values):
    """Of methods by name, their values pair by pair; None for a failure."""
    return [
        {
            "method": method,
            "pair": index,
            "measured": {} if value is None else {"deletion_swap": {"value": value, "curve": []}},
            "errors": {"deletion_swap": "it broke"} if value is None else {},
        }
        for method, listed in values.items()
        for index, value in enumerate(listed)
    ]


def rows(values, metric=METRICS["deletion_swap"], seed=0):
    n = len(values["random"])
    groups = subsets([True] * n, [True] * n)
    found = metric_rows(records(values), list(values), [metric], groups, seed)
    return {row.method: row for row in found if row.subset == "genuine"}


@pytest.mark.parametrize(("n", "enough"), [(1, False), (2, False), (9, False), (10, True), (13, True)])
def test_few_pairs_beat_nobody(n, enough):
    found = rows({"good": [0.0] * n, "random": [0.5] * n, "center": [0.5] * n})["good"]
    assert found.decided is found.beats_null is enough
    gain, low, high = found.gains["random"]
    assert gain == 0.5
    assert (low, high) == (0.5, 0.5) if enough else (math.isnan(low) and math.isnan(high))


def test_chance_alone_rarely_beats():
    """Signs tossed for ten differences: few tosses pass for better than nothing."""
    signs = np.random.default_rng(1).choice([-1, 1], (400, 10))
    beaten = [_interval(list(row), 0, fewest=10)[0] > 0 for row in signs * np.linspace(1, 2, 10)]
    assert 0.01 < np.mean(beaten) < 0.08


def test_a_single_pair_has_no_interval():
    found = rows({"random": [0.5], "center": [0.25]})["random"]
    assert (found.n_pairs, found.mean) == (1, 0.5)
    assert math.isnan(found.standard_error)
    assert all(math.isnan(end) for end in found.interval)
    cells = dict(
        zip(*(line.split(",") for line in to_csv([flat(found, 0.1, 0)]).split("\n")[:2]), strict=True)
    )
    assert (cells["mean"], cells["interval_low"], cells["better_than_center"]) == ("0.5", "", "-0.25")
    assert cells["beats_null"] == "no"


def test_pairs_that_a_baseline_failed_on_are_left_out_of_its_difference():
    nulls = {"random": [None, *[0.5] * 10], "center": [0.5] * 11}
    found = rows({"good": [9.0, *[0.25] * 10], **nulls})["good"]
    assert found.gains["random"] == (0.25, 0.25, 0.25)
    assert found.gains["center"][0] == pytest.approx((0.5 * 11 - 9 - 0.25 * 10) / 11)
    assert not found.beats_null
    # Nine pairs in common are too few, however many the method has.
    found = rows({"good": [0.25] * 11, "random": [None, None, *[0.5] * 9], "center": [0.5] * 11})["good"]
    assert (found.n_pairs, found.beats_null) == (11, False)


def test_means_errors_and_intervals_by_hand():
    """Values whose bootstrap is known: the mean of draws from zeros and ones is binomial."""
    nulls = {"random": [1.0] * 10, "center": [0.5] * 10}
    found = rows({"good": [1.0] * 7 + [0.0] * 3, **nulls})["good"]
    assert found.mean == pytest.approx(0.7)
    # Squared distances from the mean: 7 of .09 and 3 of .49, 2.1 in all; the error's square is 2.1 / 9 / 10.
    assert found.standard_error == pytest.approx(math.sqrt(2.1 / 90))
    # Binomial(10, .7): at most 3 with 1.1 %, at most 4 with 4.7 %; at most 8 with 85.1 %, at most 9 with
    # 97.2 %. The upper end lies so near to a step that the 2000 draws may take either.
    assert found.interval[0] == pytest.approx(0.4)
    assert found.interval[1] in (pytest.approx(0.9), pytest.approx(1.0))
    # Lower is better. Against random: 0 seven times, 1 three times. Binomial(10, .3): none at all with 2.8 %,
    # so the lower end is 0 and nothing is shown; at most 5 with 95.3 %, at most 6 with 98.9 %.
    assert found.gains["random"] == pytest.approx((0.3, 0.0, 0.6))
    # Against center: -.5 seven times and .5 three times: the same draws, shifted.
    assert found.gains["center"] == pytest.approx((-0.2, -0.5, 0.1))
    assert not found.beats_null
    # One more pair that is better: Binomial(10, .4), none with 0.6 %, at most one with 4.6 %.
    found = rows({"good": [1.0] * 6 + [0.0] * 4, "random": [1.0] * 10, "center": [1.0] * 10})["good"]
    assert [gain[1] for gain in found.gains.values()] == pytest.approx([0.1, 0.1])
    assert found.beats_null


def test_intervals_are_percentiles_of_a_loop_of_resampled_means():
    values = np.random.default_rng(5).normal(0.3, 0.2, 17)
    found = rows({"random": list(values), "center": [0.0] * 17}, seed=3)["random"]
    generator = np.random.default_rng(3)
    means = []
    for _ in range(2000):
        chosen = [generator.integers(17) for _ in range(17)]
        means.append(math.fsum(values[i] for i in chosen) / 17)
    assert found.interval == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=0.015)
    assert found.interval == rows({"random": list(values), "center": [1.0] * 17}, seed=3)["random"].interval


def test_what_else_defines_a_protocol_has_columns_of_its_own():
    own = Metric("deletion_swap", "", "lower", "all", "value", print, {"radius": 0.25}, fill="x")
    both = [
        flat(rows({"random": [0.5], "center": [0.5]}, metric)["random"], 0.1, 0)
        for metric in (METRICS["deletion_swap"], own)
    ]
    head, first, second = (line.split(",") for line in to_csv(both).splitlines())
    assert head[-1] == "radius"
    assert (first[-1], second[-1]) == ("", "0.25")
    assert (first[head.index("fill")], second[head.index("fill")]) == ("swap", "x")


def test_sanity_metrics_name_their_protocol():
    assert METRICS["sensitivity"].definition() == {
        "perturb": "both", "perturb_radius": 0.02, "n_perturb_samples": 10,
    }  # fmt: skip
    assert METRICS["infidelity"].definition()["n_perturb_samples"] == 50
    assert METRICS["randomization"].definition()["n_steps"] == 1


@pytest.mark.parametrize("width", [40, 60, 80, 132, 1000])
def test_the_text_fits_the_terminal_and_loses_nothing(width, tmp_path, monkeypatch):
    long = "morph_gradients:n_points=16,smooth=5"
    methods, names = ["fggb", long, "random", "center"], [*METRICS][:8]
    values = {(method, name): i / 1000 for i, (method, name) in enumerate(itertools.product(methods, names))}
    found = [
        {
            "method": method,
            "pair": pair,
            "measured": {name: {"value": values[method, name], "curve": []} for name in names},
            "errors": {},
        }
        for method in methods
        for pair in range(2)
    ]
    groups = subsets([True, False], [True, False])
    listed = metric_rows(found, methods, [METRICS[name] for name in names], groups, 0)
    result = BenchmarkResult(tmp_path, listed, [], {}, [], 0)
    text = result.text(width)
    assert max(map(len, text.splitlines())) <= width
    # Read again, by the heads of the tables: each value stands below its metric and beside its method.
    read = {}
    for table in text.split("\n\n"):
        head, *lines = table.splitlines()
        rest = " ".join(lines).split()
        while rest:
            method = rest.pop(0)
            for name in head.split()[1:]:
                read[method, name] = float(rest.pop(0))
    assert read == values
    assert (text.count("\n\n") == 0) == (width == 1000)
    monkeypatch.setenv("COLUMNS", str(width))
    assert result.text() == text
