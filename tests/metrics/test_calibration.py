"""Thresholds at a false match rate: closed forms, a slow reference, ties, refusals, and real pairs."""

from __future__ import annotations

import json
import math
from statistics import NormalDist

import numpy as np
import pytest
import torch

from captum_face.data import FacePairs, synthetic_pairs
from captum_face.metrics import calibrate_threshold, listed_people, operating_point, roc, tar_at_far
from captum_face.metrics.calibration import require_far
from captum_face.models import load_pair


def drawn(n_genuine, n_impostor, seed=0, digits=None):
    generator = np.random.default_rng(seed)
    scores = np.concatenate([generator.normal(2, 1, n_genuine), generator.normal(0, 1, n_impostor)])
    return (scores if digits is None else scores.round(digits)), [1] * n_genuine + [0] * n_impostor


def wilson(k, n):
    z = NormalDist().inv_cdf(0.975)
    middle, half = (
        (k + z * z / 2) / (n + z * z),
        z / (n + z * z) * math.sqrt(k * (n - k) / n + z * z / 4),
    )
    return middle - half, middle + half


def test_threshold_and_rates_are_those_of_the_list():
    scores, same = drawn(60, 90)
    found = operating_point(scores, same, 0.1, n_bootstrap=20)
    assert found.fmr == 9 / 90
    assert 1 - found.fnmr == tar_at_far(scores, same, 0.1)
    accepted = scores >= found.threshold
    assert accepted[60:].mean() == found.fmr
    assert 1 - accepted[:60].mean() == pytest.approx(found.fnmr)
    assert found.threshold.source == "chosen at FMR 0.1 on 90 impostor pairs"
    assert json.loads(json.dumps(found.summary()))["source"] == found.threshold.source
    assert "bootstrap over pairs" in str(found)


def test_interval_of_the_threshold_is_that_of_the_order_statistic():
    """Drawing n pairs from n, how many of the highest j come up is binomial."""
    n, far = 120, 0.05
    scores, same = drawn(40, n)
    found = operating_point(scores, same, far, n_bootstrap=4000)
    impostor = np.sort(scores[40:])[::-1]
    allowed = int(far * n)
    # The first rejected impostor of a draw is among the highest j if more than `allowed` of these are drawn.
    among = [
        1 - sum(math.comb(n, k) * (j / n) ** k * (1 - j / n) ** (n - k) for k in range(allowed + 1))
        for j in range(1, n + 1)
    ]
    strict, lax = (next(j for j, p in enumerate(among) if p >= q) for q in (0.025, 0.975))
    # A threshold lies between its first rejected impostor and the one before it.
    low, high = found.interval
    assert impostor[lax + 1] < low < impostor[lax - 2]
    assert impostor[strict + 1] < high < impostor[max(strict - 2, 0)] + 1e-9


def test_equals_draws_of_people_one_by_one():
    generator = np.random.default_rng(5)
    who = np.array([(i, i) for i in range(12)] + [tuple(generator.choice(12, 2, False)) for _ in range(60)])
    scores, same = drawn(12, 60, digits=1)  # with ties
    found = operating_point(scores, same, 0.2, people=who, n_bootstrap=50, seed=3)
    draws, thresholds = np.random.default_rng(3), []
    union = roc(scores, same).thresholds.tolist()
    for _ in range(50):
        times = np.bincount(draws.integers(12, size=12), minlength=12)
        weights = [times[a] * times[b] for a, b in who[12:]]
        impostors = [s for s, weight in zip(scores[12:], weights, strict=True) for _ in range(weight)]
        places = [
            place
            for place, t in enumerate(union)
            if sum(s >= t for s in impostors) <= 0.2 * len(impostors) + 1e-9
        ]
        last = max(places)
        thresholds.append((union[last] + union[last + 1]) / 2)
    low, high = np.quantile(thresholds, [0.025, 0.975], method="inverted_cdf")
    assert found.interval == pytest.approx((min(low, found.threshold), max(high, found.threshold)))
    assert found.resampled == "12 people"


def test_intervals_of_rates_are_wilsons_where_pairs_are_independent():
    scores, same = drawn(400, 500)
    found = operating_point(scores, same, 0.1, n_bootstrap=4000)
    assert found.fmr_interval == pytest.approx(wilson(50, 500), abs=0.003)
    assert found.fnmr_interval == pytest.approx(wilson(found.fnmr * 400, 400), abs=0.004)
    apart = operating_point(scores + 100 * np.array(same), same, 0.1, n_bootstrap=20)
    assert apart.fnmr == 0
    assert apart.fnmr_interval == pytest.approx(wilson(0, 400))


def test_people_in_many_pairs_widen_the_intervals():
    """One person is like everybody: draws with and without that person differ."""
    who = np.array([(i, i) for i in range(20)] + [(i, j) for i in range(20) for j in range(i)])
    same = who[:, 0] == who[:, 1]
    scores = np.where(same, 5.0, np.random.default_rng(0).normal(0, 1, len(who)))
    scores[~same & (who == 0).any(1)] += 3
    by_pairs, by_people = (operating_point(scores, same, 0.1, people=p) for p in (None, who))
    assert by_people.threshold == by_pairs.threshold
    width = [high - low for low, high in (by_pairs.fmr_interval, by_people.fmr_interval)]
    assert width[1] > 1.5 * width[0]


def test_rates_that_a_list_cannot_support():
    scores, same = drawn(50, 104)
    message = (
        r"expected at least 300 impostor pairs \(3 / FMR\) for an FMR of 0.01, got 104; add pairs of "
        r"different people, or ask for a rate of at least 0.0289"
    )
    with pytest.raises(ValueError, match=message):
        operating_point(scores, same, 0.01)
    assert operating_point(scores, same, 0.0289, n_bootstrap=5).fmr <= 0.0289  # what the message advises
    assert require_far(0.01, 300) == 0.01
    for wrong in (0, 1.5, float("nan"), True, "0.1"):
        with pytest.raises(ValueError, match=r"expected far as a rate in \(0, 1\]"):
            require_far(wrong, 1000)


def test_people_that_do_not_fit():
    scores, same = drawn(3, 30)
    who = [[0, 0]] * 3 + [[1, 2]] * 30
    with pytest.raises(ValueError, match=r"expected people as integers \(33, 2\)"):
        operating_point(scores, same, 0.5, people=who[:-1])
    with pytest.raises(ValueError, match=r"got people \[0, 0\] in the impostor pair at index 2"):
        operating_point(scores, [1, 1, *[0] * 31], 0.5, people=who)


def test_people_of_a_list_are_linked_by_its_genuine_pairs():
    pairs = synthetic_pairs(3)
    names = [("a1", "a2"), ("a2", "a3"), ("a1", "b1"), ("b2", "c1")]
    listed = listed_people(FacePairs(names, [1, 1, 0, 0], pairs._images, source="names"))
    assert listed.tolist() == [[0, 0], [0, 0], [0, 1], [2, 3]]


@pytest.mark.real
def test_on_real_pairs(shared):
    from captum_face.data import read_pairs
    from captum_face.metrics import pair_scores

    pair = load_pair("mobilefacenet", weights=shared / "models" / "mobilefacenet.pt")
    pairs = read_pairs(shared / "data" / "pairs.csv", shared / "data" / "lfw_crops")
    found = operating_point(pair_scores(pair, pairs), pairs.same, 0.05, people=listed_people(pairs))
    assert found.threshold == calibrate_threshold(pair, pairs, criterion="far", far=0.05)
    assert found.interval[0] < found.threshold < found.interval[1]
    assert found.fmr_interval[0] < found.fmr < found.fmr_interval[1]
    assert found.fnmr_interval[0] < found.fnmr < found.fnmr_interval[1]
    torch.testing.assert_close(found.fmr, 5 / 104)
