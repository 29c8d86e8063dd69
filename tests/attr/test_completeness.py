"""Sums that miss the difference of scores are said, and what can be wrong is looked at beforehand."""

from __future__ import annotations

import captum.attr
import pytest
import torch
from torch import nn

from captum_face import METHODS, PairSimilarity, explain
from captum_face.attr import EachSide
from captum_face.attr.spec import MethodSpec
from tests.conftest import small_net


def steep(images):
    """An embedding along which a few steps miss much."""
    flat = images.flatten(1)
    return torch.stack([torch.sin(9 * flat.mean(1)), torch.cos(7 * flat.mean(1)), flat.amax(1)], 1)


@pytest.fixture
def pairs():
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.rand(3, 3, 18, 14, generator=generator) for _ in range(2))


CLASSES = {
    "IntegratedGradients": {"n_steps": 3},
    "DeepLift": {},
    "GradientShap": {"baselines": torch.zeros(2, 3, 18, 14), "n_samples": 3, "seed": 0},
    "DeepLiftShap": {"baselines": torch.zeros(2, 3, 18, 14)},
}


@pytest.mark.parametrize("name", CLASSES)
def test_captums_own_delta_is_noted(pairs, name):
    pair, options = PairSimilarity(small_net().eval()), CLASSES[name]
    found = EachSide(pair, getattr(captum.attr, name)).attribute_detailed(pairs, **options)
    sums = torch.stack([side.flatten(1).sum(1) for side in found.attributions], 1)
    delta, explained = (found.details[key] for key in ("convergence_delta", "score_difference"))
    assert delta.shape == explained.shape == (3, 2)
    torch.testing.assert_close(sums.double() - delta.double(), explained, atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        black = [torch.zeros_like(side) for side in pairs]
        without = pair(black[0], pairs[1]), pair(pairs[0], black[1])
        want = torch.stack([pair(*pairs) - score for score in without], 1)
    torch.testing.assert_close(explained, want.double(), atol=1e-4, rtol=1e-3)


def test_a_sum_that_misses_is_said_and_one_that_does_not_is_not(pairs):
    pair = PairSimilarity(steep, score="dot")
    images = tuple(side[:1] for side in pairs)
    few, many = (
        explain(pair, *images, f"integrated_gradients:n_steps={n},method=riemann_left") for n in (2, 600)
    )
    assert few.remarks["convergence"].startswith("incomplete: a map sums to ")
    assert few.remarks["convergence"].endswith("; raise n_steps")
    assert "incomplete" in few.plot().get_suptitle()
    assert "convergence" not in many.remarks
    for found in (few, many):
        deltas, explained = (found.settings["details"][k] for k in ("convergence_delta", "score_difference"))
        for attr, delta, difference in zip(found.attributions, deltas, explained, strict=True):
            assert float(attr.sum()) == pytest.approx(difference + delta, abs=1e-4)


def test_maps_that_are_not_asked_for_details_cost_what_they_did(pairs):
    seen = []

    def model(images):
        seen.append(len(images))
        return images.mean((2, 3))

    METHODS["integrated_gradients"].build(PairSimilarity(model, score="dot")).attribute(pairs, n_steps=4)
    assert sum(seen) == 3 * 2 * (4 + 1)


@pytest.mark.parametrize("name", METHODS)
def test_a_check_computes_no_map(pairs, name, monkeypatch):
    if name in ("lrp", "bilrp"):
        pytest.importorskip("zennit")
    pair = PairSimilarity(small_net().eval(), preprocess="arcface", threshold=0.2)
    monkeypatch.setattr("captum_face.engines.sides.Sides._of", None)  # what gives the images to explain
    method = METHODS[name].build(pair)
    if name == "reconstruction":
        with pytest.raises(ValueError, match="decoder"):
            method.check(pairs)
        return
    assert method.check(pairs, show_progress=True) is None


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.needs == "gradients"])
def test_a_check_finds_a_model_without_gradients(pairs, name):
    if name in ("lrp", "bilrp"):
        pytest.importorskip("zennit")

    class Numpy(nn.Module):
        def forward(self, images):
            return images[:, :, ::5, ::5].flatten(1).detach().numpy()

    with pytest.raises((TypeError, ValueError, RuntimeError)):
        MethodSpec.of(name).build(PairSimilarity(Numpy())).check(pairs)
