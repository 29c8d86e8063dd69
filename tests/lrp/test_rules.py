"""LRP against explicit matrices in float64, for every kind of layer that face networks have."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from zennit import types
from zennit.composites import LayerMapComposite
from zennit.layer import Sum
from zennit.rules import Epsilon, Norm, Pass

from captum_face import PairSimilarity
from captum_face.lrp.composites import face
from captum_face.lrp.propagation import Propagation
from captum_face.lrp.rules import Signed
from captum_face.models.iresnet import Add
from tests.lrp import oracles

SHAPE = (2, 5, 4)


def norm(channels, affine=True, kind=nn.BatchNorm2d):
    layer = kind(channels, affine=affine).eval()
    layer.running_mean = torch.randn(channels)
    layer.running_var = torch.rand(channels) + 0.5
    if affine:
        nn.init.normal_(layer.weight)  # negative ones too
        nn.init.normal_(layer.bias)
    return layer


class Residual(nn.Module):
    def __init__(self, *branch, add):
        super().__init__()
        self.branch, self.add = nn.Sequential(*branch), add

    def forward(self, x):
        return self.add(self.branch(x), x)


#: Affine stages between activations; the oracle takes each stage as one matrix.
STAGES = {
    "linear": lambda: [nn.Sequential(nn.Flatten(), nn.Linear(40, 7)), nn.PReLU(7), nn.Linear(7, 4)],
    "convolution": lambda: [nn.Conv2d(2, 3, 3, padding=1), nn.PReLU(3, 0.3), head(60)],
    "strided": lambda: [nn.Conv2d(2, 3, 3, 2, 1), nn.ReLU(), head(18)],
    "batchnorm after": lambda: [
        nn.Sequential(nn.Conv2d(2, 3, 3, padding=1, bias=False), norm(3)), nn.PReLU(3), head(60)],
    "batchnorm before, padded": lambda: [
        nn.Sequential(norm(2), nn.Conv2d(2, 3, 3, padding=1)), nn.PReLU(3), head(60)],
    "batchnorm before and after, no weights": lambda: [
        nn.Sequential(norm(2, False), nn.Conv2d(2, 3, 3, padding=1, bias=False), norm(3, False)),
        nn.PReLU(3), head(60)],
    "depthwise": lambda: [
        nn.Sequential(norm(2), nn.Conv2d(2, 4, 3, padding=1, groups=2), norm(4)), nn.ReLU6(),
        nn.Sequential(nn.Conv2d(4, 3, 1), norm(3)), nn.PReLU(3), head(60)],
    "head": lambda: [
        nn.Conv2d(2, 3, 3, padding=1), nn.PReLU(3),
        nn.Sequential(norm(3), nn.Dropout(), nn.Flatten(), nn.Linear(60, 4), norm(4, kind=nn.BatchNorm1d))],
}  # fmt: skip


def head(size):
    return nn.Sequential(nn.Flatten(), nn.Linear(size, 4))


def build(stages):
    torch.manual_seed(2)
    return nn.Sequential(*stages()).double().eval()


def propagate(model, composite, image, seeds, **options):
    pair = PairSimilarity(model)
    with pair.frozen():
        propagation = Propagation(pair, image, composite=composite, **options)
        return torch.cat([maps for _, maps in propagation.maps(image, seeds)])


def expected(model, image, seed, rule):
    """Down the stages, each affine one as its matrix."""
    given, values = image, []
    for stage in model:
        values.append(given)
        given = stage(given)
    relevance = seed
    for stage, value in reversed(list(zip(model, values, strict=True))):
        if isinstance(stage, (nn.ReLU, nn.ReLU6, nn.PReLU)):
            continue
        weights, _ = oracles.matrix(stage, value.shape[1:])
        relevance = rule(weights, value.detach().flatten(), relevance)
    return relevance.reshape(image.shape)


def everywhere(rule, total):
    return LayerMapComposite(
        [(types.Activation, Pass()), (types.BatchNorm, Pass()), (types.Linear, rule), (Sum, total)]
    )


@pytest.fixture
def image():
    return torch.rand(1, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def seeds():
    return torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 10.0])
@pytest.mark.parametrize("name", STAGES)
def test_the_signed_rule(name, gamma, image, seeds):
    model = build(STAGES[name])
    got = propagate(model, everywhere(Signed(gamma), Signed(gamma)), image, seeds)
    for row, seed in zip(got, seeds, strict=True):
        want = expected(model, image, seed, lambda w, x, r: oracles.signed(w, x, r, gamma))
        torch.testing.assert_close(row[None], want, rtol=1e-7, atol=1e-9)
        if gamma:
            torch.testing.assert_close(row.sum(), seed.sum(), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", STAGES)
def test_zennits_epsilon_rule_on_the_canonized_model(name, image, seeds):
    model = build(STAGES[name])
    rules = everywhere(Epsilon(1e-14, zero_params=["bias"]), Norm(1e-14))
    got = propagate(model, rules, image, seeds[:1])
    want = expected(model, image, seeds[0], oracles.epsilon)
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("form", ["+", "torch.add", "+=", "module", "method"])
def test_a_residual_sum(form, image, seeds):
    def inplace(main, shortcut):
        main += shortcut
        return main

    add = {
        "+": lambda a, b: a + b,
        "torch.add": torch.add,
        "+=": inplace,
        "module": Add(),
        "method": lambda a, b: a.add(b),
    }[form]
    torch.manual_seed(4)
    branch = nn.Sequential(norm(2), nn.Conv2d(2, 2, 3, padding=1, bias=False))
    model = nn.Sequential(Residual(*branch, add=add), head(40)).double().eval()
    got = propagate(model, everywhere(Signed(0.7), Signed(0.7)), image, seeds[:1])

    final, _ = oracles.matrix(model[1], SHAPE)
    conv, _ = oracles.matrix(branch, SHAPE)
    x = image.flatten()
    main = branch(image).flatten().detach()
    above = oracles.signed(final, main + x, seeds[0], 0.7)
    both = torch.stack([main, x], 1)
    ones = torch.ones(1, 2, dtype=torch.float64)
    shares = torch.stack(
        [oracles.signed(ones, pair, r[None], 0.7) for pair, r in zip(both, above, strict=True)]
    )
    want = oracles.signed(conv, x, shares[:, 0], 0.7) + shares[:, 1]
    torch.testing.assert_close(got.flatten(), want, rtol=1e-7, atol=1e-9)


def test_the_default_composite_spreads_the_first_convolution_evenly(image, seeds):
    model = build(STAGES["depthwise"])
    got = propagate(model, "face", image, seeds[:1])
    value = [image]
    for stage in model:
        value.append(stage(value[-1]).detach())
    weights = [oracles.matrix(model[i], value[i].shape[1:])[0] for i in (0, 2, 4)]
    relevance = oracles.signed(weights[2], value[4].flatten(), seeds[0], 0.2)  # one place: the head
    relevance = oracles.signed(weights[1], value[2].flatten(), relevance, 0.5)
    torch.testing.assert_close(got.flatten(), oracles.flat(weights[0], relevance), rtol=1e-7, atol=1e-9)


def test_an_infinite_gamma_keeps_contributions_of_the_outputs_sign_alone(image, seeds):
    model = build(STAGES["convolution"])
    got = propagate(model, everywhere(Signed(math.inf), Signed(math.inf)), image, seeds[:1])
    want = expected(model, image, seeds[0], lambda w, x, r: oracles.signed(w, x, r, 1e9))
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-7)
    assert got.abs().sum() <= seeds[0].abs().sum() * (1 + 1e-9)


def test_what_is_silent_but_for_its_bias_hands_relevance_on_evenly():
    """The first unit is 3 by its bias alone: both its inputs are 0."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2), nn.ReLU(), nn.Linear(2, 2)).double().eval()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[2.0, -1, 0, 0], [0, 0, 1, 3]]))
        model[1].bias.copy_(torch.tensor([3.0, 0]))
        model[3].weight.copy_(torch.eye(2))
        model[3].bias.zero_()
    image = torch.tensor([0.0, 0, 0.5, 0.5], dtype=torch.float64).reshape(1, 1, 2, 2)
    seed = torch.tensor([[0.8, 0.4]], dtype=torch.float64)
    got = propagate(model, "face", image, seed)
    assert got.flatten().tolist() == pytest.approx([0.2, 0.2, 0.3, 0.5])  # 0.8 / 4 to each input it sees
    with_biases = propagate(model, face(biases=True), image, seed)
    assert with_biases.flatten().tolist() == pytest.approx([0, 0, 0.1, 0.3])


def test_relevance_of_a_chunk_is_that_of_its_rows(image, seeds):
    """Rules remember what they were given once for all rows; later chunks must not see older ones."""
    model = build(STAGES["depthwise"])
    pair = PairSimilarity(model)
    together = propagate(model, "face", image, seeds)
    with pair.frozen():
        propagation = Propagation(pair, image)
        for size in (1, 2):
            chunks = [maps for _, maps in propagation.maps(image, seeds, size)]
            torch.testing.assert_close(torch.cat(chunks), together, rtol=1e-10, atol=1e-12)
        other = torch.rand_like(image)
        list(propagation.maps(other, seeds))
        torch.testing.assert_close(torch.cat([m for _, m in propagation.maps(image, seeds)]), together)


@pytest.mark.parametrize("size", [3, 8])
def test_without_biases_epsilon_lrp_is_input_times_gradient(size):
    torch.manual_seed(5)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.ReLU(), nn.Conv2d(6, 4, 3, stride=2, bias=False),
        nn.ReLU(), nn.Flatten(), nn.LazyLinear(5, bias=False),
    ).double()  # fmt: skip
    image = torch.rand(1, 3, size, size + 1, dtype=torch.float64)
    model(image)
    seed = torch.randn(1, 5, dtype=torch.float64)
    got = propagate(model.eval(), everywhere(Epsilon(1e-15), Norm(1e-15)), image, seed)
    leaf = image.clone().requires_grad_()
    output = model(leaf)
    (gradient,) = torch.autograd.grad(output, leaf, seed / output.detach())
    torch.testing.assert_close(got, image * gradient, rtol=1e-7, atol=1e-9)
