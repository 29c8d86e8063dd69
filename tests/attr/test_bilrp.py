"""BiLRP: joint relevance of regions of two faces."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from zennit import types
from zennit.composites import LayerMapComposite
from zennit.rules import Epsilon

from captum_face import PairSimilarity
from captum_face.attr.bilrp import BiLRP
from captum_face.attr.lrp import LRP
from captum_face.lrp import COMPOSITES
from captum_face.lrp.propagation import Propagation
from tests.attr.test_contract import same_state, state
from tests.conftest import small_net


def regions(attr, grid):
    n, c, height, width = attr.shape
    cut = attr.reshape(n, c, grid[0], height // grid[0], grid[1], width // grid[1])
    return cut.sum((1, 3, 5)).flatten(1)


def correlation(left, right):
    return float(torch.corrcoef(torch.stack([left.flatten(), right.flatten()]))[0, 1])


def test_a_linear_embedding_in_closed_form():
    """With epsilon on one linear layer, R_pq = sum_k w_kp x_p w_kq y_q over the embeddings' lengths."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(24, 6, bias=False)).double()
    x, y = torch.rand(2, 1, 6, 4).double(), torch.rand(2, 1, 6, 4).double()
    rules = LayerMapComposite([(types.Linear, Epsilon(1e-15))])
    got = BiLRP(PairSimilarity(model), composite=rules).interactions((x, y), grid=(6, 4))
    w = model[1].weight.detach()
    for n in range(2):
        e, f = w @ x[n].flatten(), w @ y[n].flatten()
        want = torch.zeros(24, 24).double()
        for k in range(6):
            want += torch.outer(w[k] * x[n].flatten(), w[k] * y[n].flatten())
        torch.testing.assert_close(got[n], want / e.norm() / f.norm(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("score", ["cosine", "dot", "euclidean"])
def test_sums_and_marginals(net, images, score):
    pair = PairSimilarity(net, score=score, preprocess="arcface")
    method = BiLRP(pair)
    joint = method.interactions(images, grid=(6, 7))
    assert joint.shape == (3, 42, 42)
    assert not joint.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(joint.sum((1, 2)), pair(*images), rtol=1e-4, atol=1e-5)
    marginals = method.attribute(images)
    for marginal, summed in zip(marginals, (joint.sum(2), joint.sum(1)), strict=True):
        torch.testing.assert_close(regions(marginal, (6, 7)), summed, rtol=1e-4, atol=1e-5)
    for marginal, whole in zip(marginals, LRP(pair).attribute(images), strict=True):
        torch.testing.assert_close(marginal, whole, rtol=1e-3, atol=1e-5)  # channel sums are 1


def test_marginals_of_a_composite_that_does_not_conserve_are_those_of_its_interactions(pair, images):
    method = BiLRP(pair, composite="epsilon_plus", biases=True)
    joint = method.interactions(images, grid=(18, 14))
    for marginal, summed in zip(method.attribute(images), (joint.sum(2), joint.sum(1)), strict=True):
        torch.testing.assert_close(regions(marginal, (18, 14)), summed, rtol=1e-3, atol=1e-5)


def test_chunks_and_partners_do_not_change_interactions(pair, images):
    method = BiLRP(pair)
    whole = method.interactions(images, grid=(3, 2))
    torch.testing.assert_close(method.interactions(images, grid=(3, 2), internal_batch_size=2), whole)
    against = method.interactions((images[0][:1], images[1]), grid=(3, 2))
    expanded = method.interactions((images[0][:1].expand(3, -1, -1, -1), images[1]), grid=(3, 2))
    torch.testing.assert_close(against, expanded)
    swapped = method.interactions(images[::-1], grid=(3, 2))
    torch.testing.assert_close(swapped, whole.transpose(1, 2))


@pytest.mark.parametrize(("a", "b"), [(1, 3), (3, 1), (2, 2)])
def test_every_image_is_propagated_once_whatever_its_partners(pair, images, monkeypatch, a, b):
    counts = calls(monkeypatch, "maps")
    summed = calls(monkeypatch, "sums")
    sides = images[0][:a], images[1][:b]
    BiLRP(pair).interactions(sides, grid=(3, 2))
    assert counts == [7] * (a + b)
    counts.clear()
    marginals = BiLRP(pair).attribute(sides)
    assert len(summed) == a + b
    assert sum(counts) == 2 * max(a, b)  # one pass for each pair, and never one for each channel
    for marginal, whole in zip(marginals, LRP(pair).attribute(sides), strict=True):
        torch.testing.assert_close(marginal, whole, rtol=1e-3, atol=1e-5)


def calls(monkeypatch, name):
    """How many starting relevances each call has, or 1 for the sums."""
    original, counts = getattr(Propagation, name), []

    def counted(self, image, *rest):
        counts.append(len(rest[0]) if name == "maps" else 1)
        return original(self, image, *rest)

    monkeypatch.setattr(Propagation, name, counted)
    return counts


@pytest.mark.parametrize("composite", COMPOSITES)
@pytest.mark.parametrize("biases", [False, True])
def test_the_sums_of_all_channels_maps_without_the_maps(pair, images, monkeypatch, composite, biases):
    """The gradient of a map's sum by its start; where the rules are not linear, the maps after all."""
    counts = calls(monkeypatch, "maps")
    with pair.frozen(), torch.no_grad():
        propagation = Propagation(pair, images[0][:1], composite=composite, biases=biases)
        for image in images[0].split(1):
            got = propagation.sums(image, 3)
            assert counts == ([7] if composite == "guided_backprop" else [])
            want = torch.cat([r.flatten(1).sum(1) for _, r in propagation.maps(image, torch.eye(7))])
            counts.clear()
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    assert propagation.linear == (composite != "guided_backprop")


def test_the_sums_leave_out_what_preprocessing_drops(images):
    class Cropped(nn.Module):
        """The border is painted over, so relevance there does not reach the image."""

        def forward(self, x):
            return nn.functional.pad(x[..., 3:-3, 3:-3], (3, 3, 3, 3), value=0.7)

    pair = PairSimilarity(small_net().eval(), preprocess=Cropped())
    with pair.frozen():
        propagation = Propagation(pair, images[0][:1])
        maps = torch.cat([r for _, r in propagation.maps(images[0][:1], torch.eye(7))])
        assert (maps.flatten(1).sum(1) - 1).abs().max() > 0.05
        torch.testing.assert_close(
            propagation.sums(images[0][:1]), maps.flatten(1).sum(1), rtol=1e-4, atol=1e-5
        )


def test_random_projections_keep_the_sum_and_converge(pair, images):
    exact = BiLRP(pair).interactions(images, grid=(3, 2))

    def projected(count, seed=0):
        return BiLRP(pair, projections=count, seed=seed).interactions(images, grid=(3, 2))

    with torch.no_grad():
        score = pair(*images)
    for count in (1, 3, 7):
        torch.testing.assert_close(projected(count).sum((1, 2)), score, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(projected(7), exact, rtol=1e-3, atol=1e-5)  # as many as channels
    assert torch.equal(projected(3), projected(3))
    assert not torch.equal(projected(3), projected(3, seed=1))
    mean = torch.stack([projected(4, seed) for seed in range(20)]).mean(0)
    assert (mean - exact).norm() < 0.4 * (projected(4) - exact).norm()  # 1 / sqrt(20) = 0.22: unbiased
    for marginal, whole in zip(
        BiLRP(pair, projections=3).attribute(images), BiLRP(pair).attribute(images), strict=True
    ):
        torch.testing.assert_close(marginal.sum((1, 2, 3)), whole.sum((1, 2, 3)), rtol=1e-3, atol=1e-5)


def test_projections_of_one_image_against_many_are_those_of_each_pair(pair, images):
    method = BiLRP(pair, projections=3)
    sides = images[0][:1], images[1]
    one_by_one = [(sides[0], image[None]) for image in sides[1]]
    joint = torch.cat([method.interactions(two, grid=(3, 2)) for two in one_by_one])
    torch.testing.assert_close(method.interactions(sides, grid=(3, 2)), joint, rtol=1e-4, atol=1e-6)
    marginals = [method.attribute(two) for two in one_by_one]
    for side, attr in enumerate(method.attribute(sides)):
        want = torch.cat([marginal[side] for marginal in marginals])
        torch.testing.assert_close(attr, want, rtol=1e-4, atol=1e-6)


def test_the_model_is_left_as_it_was(pair, images):
    pair.train()
    before = state(pair)
    BiLRP(pair).interactions(images, grid=(3, 2))
    with pytest.raises(ValueError, match="grid"):
        BiLRP(pair).interactions(images, grid=(5, 2))
    assert same_state(before, state(pair))


@pytest.mark.parametrize(
    ("grid", "message"),
    [((14, 14), r"14 rows for 18 pixels; take one of 1, 2, 3, 6, 9, 18"),
     ((18, 5), "5 columns for 14 pixels"),
     ((0, 2), "grid rows to be an integer of at least 1"), (14, r"expected grid as \(rows, columns\)")],
)  # fmt: skip
def test_grids_that_do_not_divide_the_image(pair, images, grid, message):
    with pytest.raises((ValueError, TypeError), match=message):
        BiLRP(pair).interactions(images, grid=grid)


def test_bad_projections(pair, images):
    with pytest.raises(ValueError, match="at most as many projections as embedding channels, 7, got 8"):
        BiLRP(pair, projections=8).interactions(images, grid=(3, 2))
    with pytest.raises(ValueError, match="projections to be an integer of at least 1"):
        BiLRP(pair, projections=0).attribute(images)


def test_progress(pair, images, capsys):
    BiLRP(pair).interactions(images, grid=(3, 2), show_progress=True)
    assert "100%" in capsys.readouterr().err


@pytest.mark.real
def test_interactions_of_real_faces_sum_to_the_score(real_pair, real_images):
    images = tuple(image[:1] for image in real_images)
    joint = BiLRP(real_pair, projections=6).interactions(images, grid=(14, 14))
    with torch.no_grad():
        assert float(joint.sum()) == pytest.approx(float(real_pair(*images)), rel=0.05)
