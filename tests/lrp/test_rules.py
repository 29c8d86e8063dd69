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
from captum_face.lrp.composites import face, resolve_composite
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
    "odd steps": lambda: [
        nn.Conv2d(2, 4, (3, 2), (2, 3), (1, 0), (1, 2), groups=2), nn.PReLU(4), nn.Conv2d(4, 3, 1, 2),
        head(6)],
    "same": lambda: [
        nn.Conv2d(2, 3, 3, padding="same"), nn.PReLU(3),
        nn.Conv2d(3, 3, 3, padding="same", dilation=2), nn.ReLU(), head(60)],
    "transposed": lambda: [
        nn.ConvTranspose2d(2, 3, 2, 2), nn.PReLU(3), nn.ConvTranspose2d(3, 2, 3), head(240)],
    "means": lambda: [
        nn.Conv2d(2, 3, 3, padding=1), nn.PReLU(3), nn.AvgPool2d(3, 2, 1, count_include_pad=False),
        nn.AdaptiveAvgPool2d(1), head(3)],
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
        [((types.Activation, types.BatchNorm), Pass()), (types.Linear, rule), ((Sum, types.AvgPool), total)]
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


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize(
    "normalise",
    [nn.utils.weight_norm, nn.utils.spectral_norm, nn.utils.parametrizations.weight_norm,
     nn.utils.parametrizations.spectral_norm],
)  # fmt: skip
@pytest.mark.parametrize("folded", [True, False])
def test_weights_that_are_computed_from_others(normalise, folded, image, seeds):
    torch.manual_seed(3)
    layers = [nn.Conv2d(2, 3, 3, padding=1), norm(3) if folded else nn.Identity(), nn.PReLU(3), head(60)]
    model = nn.Sequential(normalise(layers[0]), *layers[1:3], nn.Flatten(), normalise(layers[3][1]))
    model = model.double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 1.5
        model(image)  # the old ones compute their weights here
    plain = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), *layers[1:3], nn.Flatten(), nn.Linear(60, 4)
    ).double()
    for index in (0, 4):
        plain[index].weight = nn.Parameter(model[index].weight.detach().clone())
        plain[index].bias = nn.Parameter(model[index].bias.detach().clone())
    got = propagate(model, "face", image, seeds)
    torch.testing.assert_close(got, propagate(plain.eval(), "face", image, seeds))
    torch.testing.assert_close(got.sum((1, 2, 3)), seeds.sum(1))


def test_the_first_layer_is_the_one_executed_first(image, seeds):
    """And not the one registered first, here behind an activation in the folder of another layer."""

    class Crossed(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.ModuleDict({"act": nn.PReLU(2), "later": nn.Conv2d(3, 3, 3, padding=1)})
            self.body = nn.ModuleDict({"first": nn.Conv2d(2, 3, 3, padding=1), "head": head(60)})

        def layers(self):
            return self.stem["act"], self.body["first"], self.stem["later"], self.body["head"]

        def forward(self, x):
            for layer in self.layers():
                x = layer(x)
            return x

    model = Crossed().double().eval()
    straight = nn.Sequential(*model.layers())
    for composite in ("face", "epsilon_plus_flat"):
        got = propagate(model, composite, image, seeds)
        torch.testing.assert_close(got, propagate(straight, composite, image, seeds))


def test_an_image_that_is_also_seen_mirrored(image, seeds):
    class Mirrored(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, x):
            return torch.cat([self.net(x), self.net(x.flip(3))], 1)

    net = build(STAGES["convolution"])
    got = propagate(Mirrored(net), "face", image, torch.cat([seeds, seeds.flip(0)], 1))
    mirrored = propagate(net, "face", image.flip(3), seeds.flip(0)).flip(3)
    torch.testing.assert_close(got, propagate(net, "face", image, seeds) + mirrored)


def test_a_tensor_added_to_itself(image, seeds):
    class Doubled(nn.Module):
        def __init__(self, first, last):
            super().__init__()
            self.first, self.last = first, last

        def forward(self, x):
            x = self.first(x)
            return self.last(x + x)

    stages = build(STAGES["convolution"])
    model = Doubled(stages[:2], stages[2])
    got = propagate(model, everywhere(Signed(0.5), Signed(0.5)), image, seeds)
    doubled = build(STAGES["convolution"])  # the same relevance: both halves go the same way
    torch.testing.assert_close(got, propagate(doubled, everywhere(Signed(0.5), Signed(0.5)), image, seeds))


def test_an_inactive_rule_is_the_gradient(image):
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(60, 4)
    ).double().eval().requires_grad_(False)  # fmt: skip
    rules = LayerMapComposite([(types.Linear, Signed(0.5))])
    leaf, plain = image.clone().requires_grad_(), image.clone().requires_grad_()
    (want,) = torch.autograd.grad(model(plain).sum(), plain)
    with rules.context(model) as hooked:
        output = hooked(leaf)
        with rules.inactive():
            (got,) = torch.autograd.grad(output.sum(), leaf, retain_graph=True)
        (relevance,) = torch.autograd.grad(output.sum(), leaf)
    torch.testing.assert_close(got, want)
    assert not torch.allclose(relevance, want)
    assert float(relevance.sum()) != pytest.approx(float(want.sum()))


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


class Attending(nn.Module):
    """Nothing but an unknown layer, whose parts have rules elsewhere."""

    def __init__(self, whole):
        super().__init__()
        self.whole = whole
        self.layer = nn.TransformerEncoderLayer(4, 2, 3, batch_first=True)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x):
        x = x.flatten(1, 2)
        return (self.layer(x) if self.whole else self.attention(x, x, x)[0]).select(1, 0)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("composite", ["face", "epsilon_plus", "guided_backprop"])
def test_an_unknown_layer_is_passed_by_its_gradient_alone(composite, whole, image, seeds):
    torch.manual_seed(0)
    model = Attending(whole).double().eval()
    got = propagate(model, composite, image, seeds, unknown_layers="gradient")
    leaf = image.clone().requires_grad_()
    for seed, relevance in zip(seeds, got, strict=True):
        (want,) = torch.autograd.grad(model(leaf), leaf, seed[None])
        torch.testing.assert_close(relevance, want[0])


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, nn.SyncBatchNorm])
def test_relevance_passes_a_batchnorm_that_stays_and_the_larger_of_two_maps(kind, image, seeds):
    class Larger(nn.Module):
        def forward(self, x):
            return torch.max(*x.chunk(2, 1))

    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.PReLU(), norm(4, kind=kind), nn.Tanh(), Larger(), head(40)
    )
    got = propagate(model.double().eval(), "face", image, seeds)
    torch.testing.assert_close(got.sum((1, 2, 3)), seeds.sum(1))


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


def test_the_default_composite_has_the_signed_rule_for_means(image, seeds):
    model = build(STAGES["means"])
    got = propagate(model, "face", image, seeds[:1])
    values = [image]
    for stage in model:
        values.append(stage(values[-1]).detach())
    weights = [oracles.matrix(model[i], values[i].shape[1:])[0] for i in (0, 2, 3, 4)]
    relevance = seeds[0]
    for matrix, value, gamma in zip(
        weights[:0:-1], (values[4], values[3], values[2]), (0.2, 0.2, 0.5), strict=True
    ):
        relevance = oracles.signed(matrix, value.flatten(), relevance, gamma)
    torch.testing.assert_close(got.flatten(), oracles.flat(weights[0], relevance), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("composite", ["face", "epsilon_plus", "epsilon_gamma_box"])
def test_constants_and_the_embeddings_length_take_no_relevance(composite, image, seeds):
    class Scaled(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, x):
            return nn.functional.normalize(self.net(x * 3 - 0.4))

    net = build(STAGES["convolution"])
    rules = composite
    if composite == "epsilon_gamma_box":  # the box is that of the network's own input
        rules = resolve_composite(composite, torch.full_like(image, -0.4), torch.full_like(image, 2.6))
    want = propagate(net, rules, image * 3 - 0.4, seeds)
    torch.testing.assert_close(propagate(Scaled(net), rules, image, seeds), want)


def test_outputs_that_see_padding_alone_have_nobody_to_hand_relevance_to(image, seeds):
    torch.manual_seed(7)
    layers = nn.Conv2d(2, 3, 1, padding=1), nn.PReLU(3), nn.Conv2d(3, 2, 1, padding=(2, 0)), head(132)
    model = nn.Sequential(*layers).double().eval()
    got = propagate(model, everywhere(Signed(0.5), Signed(0.5)), image, seeds[:1])
    want = expected(model, image, seeds[0], lambda w, x, r: oracles.signed(w, x, r, 0.5))
    torch.testing.assert_close(got, want, rtol=1e-7, atol=1e-9)


def test_rows_of_different_images_keep_their_own_inputs(image):
    """One hook for a batch of images: what is remembered once must not be the first image's for all."""
    model = build(STAGES["convolution"]).requires_grad_(False)
    batch = torch.cat([image, image.flip(2)]).requires_grad_()
    rules = everywhere(Signed(0.5), Signed(0.5))
    with rules.context(model) as hooked:
        (together,) = torch.autograd.grad(hooked(batch), batch, torch.ones(2, 4, dtype=torch.float64))
    for row, one in zip(together, (image, image.flip(2)), strict=True):
        torch.testing.assert_close(row[None], propagate(model, rules, one, torch.ones(1, 4).double()))


@pytest.mark.parametrize("kind", [nn.ReLU, nn.ReLU6, nn.PReLU, nn.LeakyReLU, nn.Hardtanh])
def test_guided_backpropagation_lets_positive_gradients_through_activations(kind, image, seeds):
    torch.manual_seed(6)
    first, act, last = nn.Conv2d(2, 3, 3, padding=1).double(), kind().double(), head(60).double()
    got = propagate(nn.Sequential(first, act, last), "guided_backprop", image, seeds[:1])
    leaf = image.clone().requires_grad_()
    before = first(leaf)
    after = act(before)
    (above,) = torch.autograd.grad(last(after), after, seeds[:1])
    (below,) = torch.autograd.grad(after, before, above, retain_graph=True)
    (want,) = torch.autograd.grad(before, leaf, below * (above > 0))
    torch.testing.assert_close(got, want)


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
