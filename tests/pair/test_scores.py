from __future__ import annotations

import copy
import pickle

import pytest
import torch

from captum_face.pair.scores import (
    SCORES,
    Distance,
    Score,
    Threshold,
    decision_text,
    resolve_score,
    shown,
    shown_text,
    unit,
)


@pytest.mark.parametrize("name", SCORES)
def test_limits_hold_and_identical_embeddings_score_best(name):
    score = resolve_score(name)
    embeddings = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    other = embeddings.roll(1, 0)
    values = score(embeddings, other)
    low, high = score.limits
    assert (values >= low - 1e-6).all()
    assert (values <= high + 1e-6).all()
    if name != "dot":
        assert (score(embeddings, embeddings) >= values).all()
    assert score.name == name


def test_unit():
    embeddings = 1e-20 * torch.randn(4, 5)
    torch.testing.assert_close(unit(embeddings).norm(dim=1), torch.ones(4))
    with pytest.raises(ValueError, match=r"1 all-zero embedding\(s\) \(first at index 2\)"):
        unit(torch.eye(3) * torch.tensor([1, 1, 0]))


def test_an_unfinished_score_says_what_is_missing():
    class Unfinished(Score):
        pass

    with pytest.raises(TypeError, match="Unfinished must define compare"):
        Unfinished()(torch.ones(1, 2), torch.ones(1, 2))


@pytest.mark.parametrize(
    ("size", "dtype"), [(1e4, torch.float16), (1e20, torch.float32), (1e-25, torch.float32)]
)
def test_unit_holds_for_very_long_and_very_short_embeddings(size, dtype):
    embeddings = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    got = unit((size * embeddings).to(dtype)).float()
    torch.testing.assert_close(got, embeddings / embeddings.norm(dim=1, keepdim=True), rtol=5e-3, atol=1e-3)
    leaf = embeddings.double().requires_grad_()
    (grad,) = torch.autograd.grad(unit(leaf)[:, 0].sum(), leaf)
    (expected,) = torch.autograd.grad((leaf / leaf.norm(dim=1, keepdim=True))[:, 0].sum(), leaf)
    torch.testing.assert_close(grad, expected)


def test_decision_text_is_inclusive():
    assert "accepted" in decision_text(0.15, 0.15)


def test_scores_that_round_to_the_threshold_get_more_digits():
    assert decision_text(0.29996, 0.3).startswith("score 0.29996 < threshold 0.30000")


def test_a_threshold_above_0_is_a_distance():
    euclidean = resolve_score("euclidean")
    for distance in (0.6, 0.1, 1.2, 0.553, 1e-3, 7.0, 123.456):
        given = euclidean.given(distance)
        assert given == -(distance**2)
        assert shown(given) == distance
        assert euclidean.given(given) == euclidean.given(float(given)) == given  # units of the score stay
    assert [euclidean.given(value) for value in (0, -0.0, -2.5)] == [0, 0, -2.5]
    assert euclidean.given(Threshold(0.6, "dlib's own")).source == "dlib's own"
    for copied in (copy.deepcopy(given), pickle.loads(pickle.dumps(given))):
        assert (shown(copied), copied.source, copied.score) == (123.456, "given by the caller", "euclidean")
    with pytest.raises(ValueError, match=r"expected a distance as threshold, got 1e\+200"):
        euclidean.given(1e200)
    assert resolve_score("dot").given(0.6) == 0.6


def test_a_threshold_of_another_score_is_refused():
    found = resolve_score("cosine").found(0.3, "EER of 9 listed pairs")
    with pytest.raises(
        ValueError, match=r"of the score 'euclidean', got one of 'cosine' \(0.3, EER of 9 list"
    ):
        resolve_score("euclidean").given(found)
    # What accepts nothing, a little above the best score, is no small distance.
    with pytest.raises(
        ValueError, match="expected a threshold that the score can reach, -inf to 0, got 4.94"
    ):
        resolve_score("euclidean").given(resolve_score("euclidean").found(5e-324, "chosen at FMR 0.1"))


def test_decisions_by_distance():
    euclidean = resolve_score("euclidean")
    threshold = euclidean.given(0.6)
    for score, text in (
        (-0.2314, "distance 0.481 ≤ threshold 0.600: accepted as the same person"),
        (-0.36, "distance 0.600 ≤ threshold 0.600: accepted as the same person"),
        (-0.8, "distance 0.894 > threshold 0.600: rejected as different people"),
        (-(0.60004**2), "distance 0.60004 > threshold 0.60000: rejected as different people"),
        (-0.0, "distance 0.000 ≤ threshold 0.600: accepted as the same person"),
    ):
        # A figure may be given the one or the other.
        assert decision_text(euclidean.value(score), threshold) == decision_text(score, threshold) == text
        assert decision_text(euclidean.value(score), float(threshold)) == text
    assert decision_text(euclidean.value(-0.2314), None) == "distance 0.481, no threshold given"
    assert shown_text(0.4) == "score 0.400"


def test_a_distance_needs_a_score_of_at_most_0():
    class Wrong(Score):
        name, distance = "wrong", Distance()

    with pytest.raises(
        ValueError, match="expected limits that end at 0 of a score that stands for a distance"
    ):
        resolve_score(Wrong())
    Wrong.distance = 2
    with pytest.raises(
        TypeError, match="expected the distance of the score 'wrong' as a Distance or None, got 2"
    ):
        resolve_score(Wrong())
    with pytest.raises(ValueError, match="expected the power of a distance above 0, got 0"):
        Distance(0)
    assert (Distance(1).unit, Distance(2).unit) == ("minus the distance", "minus the distance squared")
