from __future__ import annotations

import pytest
import torch

from captum_face.pair.scores import SCORES, Score, decision_text, resolve_score, unit


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
