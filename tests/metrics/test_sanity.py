from __future__ import annotations

import copy

import pytest
import torch
from captum.log import log_usage
from scipy.stats import spearmanr
from torch import nn

from captum_face import FGGB, PairSimilarity
from captum_face.attr import Center, CorrRISE, PairAttribution, PairSaliency, Random
from captum_face.metrics import infidelity, randomization, sensitivity, symmetry
from tests.attr.test_contract import same_state, state
from tests.conftest import small_net


class Planted(PairAttribution):
    """A method that answers with what a function makes of the images, and notes what it saw."""

    def __init__(self, forward_func, function):
        super().__init__(forward_func)
        self.function, self.seen = function, []

    @log_usage()
    def attribute(self, inputs, **options):
        self.seen.append((inputs, options))
        return self.function(*inputs)


def maps(attributions):
    return [attr.mean(1).flatten(1) for attr in attributions]


def rank_correlation(x, y):
    return torch.tensor([spearmanr(p, q).statistic for p, q in zip(x, y, strict=True)])


@pytest.mark.parametrize("similarity", ["spearman", "spearman_absolute"])
def test_randomization_against_a_cascade_by_hand(pair, images, similarity):
    result = randomization(PairSaliency(pair), images, seed=5, similarity=similarity)
    assert result.layers == ("fc", "bn2", "conv2", "prelu", "bn1", "conv1")
    assert result.similarity.shape == (7, 2, 3)
    assert result.similarity.dtype == torch.float64
    assert torch.equal(result.similarity[0], torch.ones(2, 3).double())
    copied = copy.deepcopy(pair)
    intact = maps(PairSaliency(pair).attribute(images))
    with torch.random.fork_rng():
        torch.manual_seed(5)
        for row, layer in zip(result.similarity[1:], result.layers, strict=True):
            getattr(copied.embedding_model, layer).reset_parameters()
            got = maps(PairSaliency(copied).attribute(images))
            for side in (0, 1):
                signed = intact[side], got[side]
                if similarity == "spearman_absolute":
                    signed = intact[side].abs(), got[side].abs()
                torch.testing.assert_close(row[side], rank_correlation(*signed), rtol=0, atol=1e-3)
    assert result.similarity[-1].abs().max() < 0.9


def test_maps_that_ignore_the_model_stay_and_maps_of_it_do_not(pair, images):
    for ignorant in (Random(pair), Center(pair)):
        assert randomization(ignorant, images).similarity.min() == 1
    looking = Planted(pair, lambda a, b: (a * pair.embedding_model.fc.weight[0, 0], b))
    result = randomization(looking, images, n_steps=1)
    before, after = pair.embedding_model.fc.weight[0, 0], small_net().fc.weight[0, 0]
    assert before == after
    assert set(result.similarity[-1, 0].round().tolist()) <= {1.0, -1.0}  # the sign of a new weight
    constant = Planted(pair, lambda a, b: (torch.zeros_like(a), torch.ones_like(b)))
    assert randomization(constant, images).similarity.abs().max() == 0


def test_the_first_row_shows_a_methods_own_noise(pair, images):
    noisy = Planted(pair, lambda a, b: (torch.randn_like(a), torch.randn_like(b)))
    assert randomization(noisy, images).similarity[0].abs().max() < 0.4
    assert randomization(CorrRISE(pair), images, attribute_options={"n_masks": 8}).similarity[0].min() == 1
    loose = {"n_masks": 8, "generator": torch.Generator().manual_seed(0)}
    assert randomization(CorrRISE(pair), images, attribute_options=loose).similarity[0].max() < 1


class Crooked(nn.Module):
    """Registered in another order than executed; a layer used twice, one used as weights only."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(4, 3)
        self.scale = nn.Parameter(torch.tensor([1.0, 2.0, 4.0]))
        self.unseen = nn.Linear(4, 4)
        self.twice = nn.Linear(4, 4)
        self.first = nn.Linear(3 * 18 * 14, 4)
        self.between = nn.Linear(4, 4)

    def forward(self, images):
        x = self.twice(self.first(images.flatten(1)))
        x = self.twice(self.between(x))
        return self.scale * self.last(nn.functional.linear(x, self.unseen.weight))


def test_layers_are_taken_as_they_are_executed_backwards(images):
    pair = PairSimilarity(Crooked())
    result = randomization(PairSaliency(pair), images)
    assert result.layers == ("embedding_model", "last", "twice", "between", "first", "unseen")
    by_method = PairSimilarity(Crooked().forward)
    # Its own parameters are used out of sight of any hook.
    assert randomization(PairSaliency(by_method), images).layers == (*result.layers[1:], "embedding_model")


def test_parameters_without_an_initialisation_are_drawn_anew(images):
    class Raw(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(5 + 2 * torch.randn(3 * 18 * 14, 6))

        def forward(self, images):
            return images.flatten(1) @ self.weight

    pair, drawn = PairSimilarity(Raw()), []
    intact = pair.embedding_model.weight.detach().clone()
    noting = Planted(
        pair, lambda a, b: (drawn.append(pair.embedding_model.weight.detach().clone()), (a, b))[1]
    )
    assert randomization(noting, images).layers == ("embedding_model",)
    assert torch.equal(drawn[1], intact)
    assert not torch.isclose(drawn[2], intact).any(1).all()
    assert float(drawn[2].mean()) == pytest.approx(5, abs=0.2)
    assert float(drawn[2].std()) == pytest.approx(2, abs=0.2)
    assert torch.equal(pair.embedding_model.weight, intact)


def test_stages(pair, images):
    full = randomization(PairSaliency(pair), images, seed=1)
    staged = randomization(PairSaliency(pair), images, seed=1, n_steps=3)
    assert staged.layers == ("bn2", "prelu", "conv1")
    torch.testing.assert_close(staged.similarity, full.similarity[[0, 2, 4, 6]])
    assert randomization(PairSaliency(pair), images, seed=1, n_steps=99).layers == full.layers


def test_seeds_and_global_randomness(pair, images):
    method = PairSaliency(pair)
    torch.manual_seed(0)
    first = randomization(method, images, seed=1).similarity
    drawn = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(drawn, torch.rand(1))
    assert torch.equal(first, randomization(method, images, seed=1).similarity)
    assert not torch.equal(first, randomization(method, images, seed=2).similarity)


class Replacing(nn.Linear):
    """A layer that makes a new parameter instead of new values."""

    def reset_parameters(self):
        super().reset_parameters()
        self.weight = nn.Parameter(torch.randn_like(self.weight))


@pytest.mark.parametrize("failing_call", [None, 1, 2, 4])
def test_the_model_comes_back_bit_for_bit(images, failing_call):
    net = small_net()
    net.fc = Replacing(54, 7)
    net.bn1.running_mean[0] = float("-0.0")
    net.conv1.weight.data[0, 0, 0, 0] = float("-0.0")
    pair = PairSimilarity(net)
    tensors = [*net.parameters(), *net.buffers()]
    before, bits = state(pair), [t.detach().clone().flatten().view(torch.uint8) for t in tensors]

    def function(a, b):
        if len(method.seen) == failing_call:
            raise RuntimeError("planted")
        return PairSaliency(pair).attribute((a, b))

    method = Planted(pair, function)
    if failing_call is None:
        randomization(method, images)
        assert len(method.seen) == 1 + 7
    else:
        with pytest.raises(RuntimeError, match="planted"):
            randomization(method, images)
    assert same_state(before, state(pair))
    now = [*net.parameters(), *net.buffers()]
    assert all(x is y for x, y in zip(tensors, now, strict=True))
    assert all(torch.equal(x, t.detach().flatten().view(torch.uint8)) for x, t in zip(bits, now, strict=True))


def test_bad_randomization(pair, images):
    with pytest.raises(ValueError, match="unknown similarity 'pearson'"):
        randomization(PairSaliency(pair), images, similarity="pearson")
    with pytest.raises(TypeError, match="on a PairSimilarity.*got one on function"):
        randomization(CorrRISE(lambda a, b: a.mean((1, 2, 3))), images)
    with pytest.raises(ValueError, match="without: there is nothing to replace"):
        randomization(CorrRISE(PairSimilarity(nn.Flatten())), images)
    for steps in (0, -1, 1.5):
        with pytest.raises(ValueError, match="n_steps"):
            randomization(PairSaliency(pair), images, n_steps=steps)


def test_symmetry_of_planted_methods(images):
    a, b = images
    picture = torch.rand(3, 3, 18, 14, generator=torch.Generator().manual_seed(0))

    def unmoved(x, y):  # each image has a map of its own
        return x, y

    def by_side(x, y):  # the first image gets one map, the second its negative
        return picture, -picture

    def half(x, y):  # the map of A is kept, that of B turned round
        return (x, y) if x is a else (-x, y)

    for function, expected in ((unmoved, 1), (by_side, -1), (half, 0)):
        assert symmetry(Planted(None, function), (a, b)).tolist() == [pytest.approx(expected)] * 3
    constant = Planted(None, lambda x, y: (torch.zeros_like(x), y))
    assert symmetry(constant, (a, b)).tolist() == [0] * 3
    unrelated = Planted(None, lambda x, y: (torch.randn_like(x), torch.randn_like(y)))
    # Both calls begin with the same numbers, but for A they are the first and for B the second ones.
    assert symmetry(unrelated, (a, b)).abs().max() < 0.4
    assert symmetry(Planted(None, unmoved), (a[:1], b)).shape == (3,)


def test_symmetry_of_methods(pair, images):
    assert symmetry(FGGB(pair), images).min() > 0.999
    assert symmetry(CorrRISE(pair), images, attribute_options={"n_masks": 20}).min() > 0.999
    assert symmetry(Random(pair), images).abs().max() < 0.4
    state_before = torch.get_rng_state()
    symmetry(CorrRISE(pair), images, attribute_options={"n_masks": 4})
    assert torch.equal(state_before, torch.get_rng_state())


def test_sensitivity_is_the_largest_relative_change(images):
    identity = Planted(None, lambda a, b: (a, b))
    values = sensitivity(identity, images, perturb_radius=0.3, n_perturb_samples=4, seed=2)
    (clean, _), (noisy, _) = identity.seen
    for i in range(3):
        change = [
            sum(float((noisy[side][4 * i + k] - clean[side][i]).square().sum()) for side in (0, 1)) ** 0.5
            for k in range(4)
        ]
        size = sum(float(clean[side][i].square().sum()) for side in (0, 1)) ** 0.5
        assert float(values[i]) == pytest.approx(max(change) / size, rel=1e-5)
    for side in (0, 1):
        moved = noisy[side] - clean[side].repeat_interleave(4, 0)
        assert noisy[side].min() >= 0
        assert noisy[side].max() <= 1
        assert 0.29 < moved.abs().max() <= 0.3 + 1e-6
        assert not torch.equal(moved[0], moved[1])
    assert torch.equal(values, sensitivity(identity, images, perturb_radius=0.3, n_perturb_samples=4, seed=2))
    other = sensitivity(identity, images, perturb_radius=0.3, n_perturb_samples=4, seed=3)
    assert not torch.equal(values, other)


def test_sensitivity_of_methods(pair, images):
    for steady in (Center(pair), Random(pair), Planted(pair, lambda a, b: (a * 0, b * 0))):
        assert sensitivity(steady, images, n_perturb_samples=2).tolist() == [0, 0, 0]
    few = {"n_masks": 10}
    small, large = (
        sensitivity(CorrRISE(pair), images, perturb_radius=r, n_perturb_samples=3, attribute_options=few)
        for r in (1e-3, 0.3)
    )
    assert (small < large).all()
    assert small.max() < 0.1
    assert small.min() > 0
    single = sensitivity(FGGB(pair), (images[0][:1], images[1]), n_perturb_samples=2)
    assert single.shape == (3,)
    assert not single.requires_grad
    state_before = torch.get_rng_state()
    sensitivity(CorrRISE(pair), images, n_perturb_samples=1, attribute_options=few)
    assert torch.equal(state_before, torch.get_rng_state())


WEIGHT_A, WEIGHT_B = torch.randn(2, 3, 18, 14, generator=torch.Generator().manual_seed(8))


def linear(a, b):
    return (a * WEIGHT_A).sum((1, 2, 3)) + (b * WEIGHT_B).sum((1, 2, 3))


def expand(*attributions):
    return tuple(attr.expand(3, -1, -1, -1) for attr in attributions)


@pytest.mark.parametrize("normalize", [True, False])
def test_infidelity_of_planted_maps(images, normalize):
    def score(*attributions):
        return infidelity(linear, images, expand(*attributions), normalize=normalize, seed=1)

    change = score(torch.zeros_like(WEIGHT_A), torch.zeros_like(WEIGHT_B))
    assert (change > 0.1).all()
    assert (score(WEIGHT_A, WEIGHT_B) < 1e-5 * change).all()
    half = score(WEIGHT_A, torch.zeros_like(WEIGHT_B))
    assert ((half > 0.2 * change) & (half < 0.9 * change)).all()
    scaled, inverse = score(7 * WEIGHT_A, 7 * WEIGHT_B), score(-WEIGHT_A, -WEIGHT_B)
    if normalize:  # blind for units, and for the sign
        assert (scaled < 1e-5 * change).all()
        assert (inverse < 1e-5 * change).all()
    else:
        torch.testing.assert_close(scaled, 36 * change, rtol=1e-4, atol=0)
        torch.testing.assert_close(inverse, 4 * change, rtol=1e-4, atol=0)


def test_infidelity_against_a_loop(pair, images):
    generator = torch.Generator().manual_seed(4)
    noise = [0.2 * (2 * torch.rand(15, 3, 18, 14, generator=generator) - 1) for _ in (0, 1)]
    attr = PairSaliency(pair).attribute(images)
    values = infidelity(pair, images, attr, perturb_radius=0.2, n_perturb_samples=5, normalize=False, seed=4)
    for i in range(3):
        errors = []
        for k in range(5 * i, 5 * i + 5):
            clean = [image[i : i + 1] for image in images]
            moved = [(x + n[k : k + 1]).clamp(0, 1) for x, n in zip(clean, noise, strict=True)]
            predicted = sum(float(((x - y) * s[i]).sum()) for x, y, s in zip(clean, moved, attr, strict=True))
            with torch.no_grad():
                errors.append((predicted - float(pair(*clean) - pair(*moved))) ** 2)
        assert float(values[i]) == pytest.approx(sum(errors) / 5, rel=1e-3)


def test_infidelity_leaves_everything_alone_and_takes_a_single_image(images):
    pair = PairSimilarity(small_net())
    inputs = (images[0][:1], images[1])
    attributions = PairSaliency(pair).attribute(inputs)
    before, random_before = state(pair), torch.get_rng_state()
    values = infidelity(pair, inputs, attributions, n_perturb_samples=4)
    assert values.shape == (3,)
    assert same_state(before, state(pair))
    assert torch.equal(random_before, torch.get_rng_state())
    assert torch.equal(values, infidelity(pair, inputs, attributions, n_perturb_samples=4))


def test_bad_infidelity_and_sensitivity(pair, images):
    with pytest.raises(ValueError, match="the images' shape"):
        infidelity(pair, images, (images[0], images[1][:1]))
    with pytest.raises(ValueError, match="finite attributions"):
        infidelity(pair, images, (images[0], images[1] * float("nan")))
    with pytest.raises(TypeError, match="as a pair"):
        infidelity(pair, images, images[0])
    for radius in (0, -0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="perturb_radius in"):
            infidelity(pair, images, images, perturb_radius=radius)
        with pytest.raises(ValueError, match="perturb_radius in"):
            sensitivity(Center(pair), images, perturb_radius=radius)
    with pytest.raises(ValueError, match="n_perturb_samples"):
        infidelity(pair, images, images, n_perturb_samples=0)
    with pytest.raises(ValueError, match="n_perturb_samples"):
        sensitivity(Center(pair), images, n_perturb_samples=0)
