from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional

from captum_face import FGGB, METHODS, CorrRISE, PairSimilarity, attribute_gallery, explain
from captum_face.engines.channels import gradient_channel_maps
from captum_face.engines.masks import masked_scores, random_patches
from captum_face.metrics import perturbation_curve
from captum_face.pair import passes
from captum_face.pair.passes import cheapest_batch_size, default_batch_size, in_passes
from captum_face.pair.speed import _KNOWN, _MEASURED, _QuickPReLU, _Twin, accelerated, images_per_pass, plan
from tests.conftest import small_net
from tests.engines.test_channels import looped_maps


def quick(pair, image):
    with pair.frozen():
        return accelerated(pair, image[:1])


def test_a_twin_gives_the_embeddings_of_the_model(pair, images):
    twin = quick(pair, images[0])
    assert isinstance(twin.embedding_model, _Twin)
    assert (twin.threshold, twin.score, twin.preprocess) == (pair.threshold, pair.score, pair.preprocess)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in twin.modules())
    assert sum(isinstance(m, nn.BatchNorm2d) for m in pair.modules()) == 2
    torch.testing.assert_close(twin.embed(images[0]), pair.embed(images[0]), rtol=1e-5, atol=1e-6)
    chosen = plan(pair, images[0])
    assert (chosen.folded, chosen.channels_last) == (2, True)
    assert chosen.reason == "2 BatchNorm layers folded, channels last, 1 PReLU layers with a shorter way back"


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", [(4, 3, 5, 6), (4, 3), (4, 3, 5)])
@pytest.mark.parametrize("weight", [[0.25], [0.1, -0.3, 1.7]])
def test_prelu_goes_back_as_pytorchs_does(shape, weight, precision):
    layer = nn.PReLU(len(weight))
    layer.weight.data[:] = torch.tensor(weight)
    layer.requires_grad_(False)
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values.flatten()[::5] = 0.0
    gradients = []
    for module in (layer, _QuickPReLU(layer)):
        leaf = values.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            bent = module(leaf)
        assert torch.equal(module(values), functional.prelu(values, layer.weight))
        onward = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(bent.dtype)
        gradients.append((bent, *torch.autograd.grad(bent, leaf, onward)))
    for got, want in zip(gradients[1], gradients[0], strict=True):
        assert got.dtype == want.dtype
        assert torch.equal(got, want)


def test_the_model_is_never_changed(net, images):
    net.train()
    pair = PairSimilarity(net)
    before = {name: (t.data_ptr(), t.clone()) for name, t in net.state_dict().items()}
    modules, flags = [*net.modules()], [p.requires_grad for p in net.parameters()]
    CorrRISE(pair).attribute(images, n_masks=4)
    FGGB(pair).attribute(images)
    assert [*net.modules()] == modules
    assert [p.requires_grad for p in net.parameters()] == flags
    assert all(m.training for m in net.modules())
    for name, t in net.state_dict().items():
        assert t.data_ptr() == before[name][0]
        assert torch.equal(t, before[name][1])


@pytest.mark.parametrize("how", ["optimiser", "data", "load", "statistics", "double"])
def test_a_twin_follows_weights_that_change(net, images, how):
    pair = PairSimilarity(net)
    stale = quick(pair, images[0]).embedding_model
    with torch.no_grad():
        if how == "optimiser":
            net.conv1.weight.mul_(1.5)
        elif how == "data":
            net.conv1.weight.data.mul_(1.5)
        elif how == "load":
            net.load_state_dict({name: t * 1.5 for name, t in net.state_dict().items()})
        elif how == "statistics":
            net.bn1.running_mean.add_(0.3)
        else:
            net.double()
            images = [image.double() for image in images]
    twin = quick(pair, images[0])
    assert isinstance(twin.embedding_model, _Twin)
    assert twin.embedding_model is not stale
    torch.testing.assert_close(twin.embed(images[0]), pair.embed(images[0]), rtol=1e-5, atol=1e-6)
    assert quick(pair, images[0]).embedding_model is twin.embedding_model


def test_a_twin_follows_weights_that_do_not_show_in_the_image(net, images):
    pair, black = PairSimilarity(net), torch.zeros(1, 3, 18, 14)
    quick(pair, black)
    with torch.no_grad():
        net.conv1.weight.mul_(1.5)
    twin = quick(pair, black)
    torch.testing.assert_close(twin.embed(images[0]), pair.embed(images[0]), rtol=1e-5, atol=1e-6)


def test_a_twin_goes_with_its_model(images):
    net = small_net().eval()
    quick(PairSimilarity(net), images[0])
    gc.collect()  # what other tests have left
    gone, before = weakref.ref(net), len(_KNOWN)
    del net
    gc.collect()
    assert gone() is None
    assert len(_KNOWN) == before - 1


class Shared(nn.Module):
    """A convolution in two places, one output of which goes round the BatchNorm."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.fc = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Linear(3, 4)
        self.bn.running_mean.add_(1)

    def forward(self, x):
        y = self.conv(x)
        return self.fc((self.bn(y) + y).mean((2, 3)))


@pytest.mark.parametrize("flatten", ["view", "reshape"])
def test_layers_that_cannot_be_folded_stay(images, flatten):
    torch.manual_seed(0)
    shared = PairSimilarity(Shared().eval())
    assert plan(shared, images[0]).folded == 0  # found out by the embedding
    assert quick(shared, images[0]).embedding_model.channels_last

    class Flat(Shared):
        def forward(self, x):
            return getattr(self.bn(self.conv(x)), flatten)(len(x), -1)[:, ::50]

    flat = PairSimilarity(Flat().eval())
    chosen = plan(flat, images[0])
    assert (chosen.folded, chosen.channels_last) == (1, flatten == "reshape")
    for pair in (shared, flat):
        image = images[0][:1]
        maps = gradient_channel_maps(pair, image)
        torch.testing.assert_close(maps, looped_maps(pair, image), rtol=1e-4, atol=1e-6)


def test_what_is_run_as_it_is(net, images):
    hooked = small_net().eval()
    hooked.bn1.register_forward_hook(lambda *_: None)
    for model, reason in (
        (net.forward, "cannot be seen"),
        (torch.jit.trace(net, images[0]), "cannot be seen"),
        (torch.compile(net, backend="eager"), "compiled"),
        (nn.Sequential(nn.Flatten(), nn.Linear(756, 4)), "no convolution"),
        (hooked, "hooks"),
    ):
        pair = PairSimilarity(model)
        assert quick(pair, images[0]) is pair
        chosen = plan(pair, images[0])
        assert reason in chosen.reason
        assert (chosen.folded, chosen.channels_last) == (0, False)
    training = PairSimilarity(small_net())
    with pytest.warns(UserWarning, match="training mode"):
        training.embed(images[0])
    assert accelerated(training, images[0][:1]) is training


def test_the_same_scores_and_maps(pair, images):
    image, masks = images[0][:1], random_patches(30, (18, 14), generator=torch.Generator().manual_seed(0))
    with pair.frozen(), torch.no_grad():
        scores = masked_scores(pair, image, images[1], masks)
        expected = torch.stack([pair(image * masks[:, None], b[None]) for b in images[1]])
    torch.testing.assert_close(scores.float(), expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(
        gradient_channel_maps(pair, image), looped_maps(pair, image), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
def test_a_twin_computes_in_the_precision_of_the_pair(net, images, precision):
    pair = PairSimilarity(net, precision=precision, preprocess="arcface")
    twin = quick(pair, images[0])
    assert isinstance(twin.embedding_model, _Twin)
    assert twin.precision == precision
    seen = []
    twin.embedding_model.model.conv2.register_forward_hook(lambda _, args, out: seen.append(out.dtype))
    with torch.no_grad():
        got = twin.embed(images[0])
        exact = PairSimilarity(net, preprocess="arcface").embed(images[0])
    assert seen == [torch.bfloat16 if precision == "bfloat16" else torch.float32]
    assert got.dtype == torch.float32
    tolerance = 2e-2 if precision == "bfloat16" else 1e-6
    assert ((got - exact).norm(dim=1) <= tolerance * exact.norm(dim=1)).all()


class Counting(PairSimilarity):
    """Notes every call of embed: whether the model or its twin runs, and on what."""

    calls = ()

    def embed(self, images):
        type(self).calls += ((isinstance(self.embedding_model, _Twin), images.detach().clone()),)
        return super().embed(images)

    @classmethod
    def taken(cls):
        calls, cls.calls = cls.calls, ()
        return calls


def intact(calls, image, *, twin):
    return sum(by_twin == twin and len(seen) == 1 and torch.equal(seen, image) for by_twin, seen in calls)


def test_fggb_embeds_each_image_once(net, images):
    pair, (a, b) = Counting(net, preprocess="arcface", threshold=0.2), (image[:1] for image in images)
    pair.taken()
    for time in range(2):
        explain(pair, a, b, "fggb")
        calls = pair.taken()
        assert [intact(calls, image, twin=False) for image in (a, b)] == [1, 1]
        # The twin is verified when it sees an image for the first time.
        assert [intact(calls, image, twin=True) for image in (a, b)] == [1 - time, 1 - time]
        assert len(calls) == 4 + 2 * (1 - time)  # the other two hold one replica for each channel


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("minplus", {"grid": 3, "n_steps": 3}),
        ("swap_rise", {"n_masks": 12, "n_patches": 2, "n_cohort": 3, "seed": 0}),
        ("morph_gradients", {"n_points": 4, "seed": 0}),
        ("corrrise", {"n_masks": 12, "n_patches": 2, "seed": 0}),
    ],
)
def test_a_twin_is_verified_once_for_an_image_and_a_set_of_weights(net, images, name, options):
    pair = Counting(net, preprocess="arcface", threshold=0.99)
    inputs = images[0][:1], torch.cat([images[1], images[1].flip(-1), images[1].flip(-2)])[:8]
    method = METHODS[name](pair)
    pair.taken()
    method.attribute(inputs, **options)
    calls = pair.taken()
    for image in (*inputs[0], *inputs[1]):
        assert intact(calls, image[None], twin=True) <= 1
    method.attribute(inputs, **options)
    assert all(intact(pair.calls, image[None], twin=True) == 0 for image in inputs[0])
    pair.taken()
    with torch.no_grad():
        net.conv1.weight.mul_(1.5)
    method.attribute(inputs, **options)
    assert intact(pair.taken(), inputs[0], twin=True) == 1


def costs_of(monkeypatch, seconds):
    """Passes of known duration; the sizes that were tried."""
    tried = []

    def fake(run, size, device):
        tried.append(size)
        run(size)
        return seconds(size)

    monkeypatch.setattr(passes, "_seconds", fake)
    return tried


def test_the_cheapest_batch_is_found_by_measuring(monkeypatch):
    device = torch.device("cpu")
    for cost, best, last in (
        (lambda n: 1.0 * n, 8, 8),  # no gain: the rule, and no more than two larger ones looked at
        (lambda n: 1.0, 32, 32),  # a pass costs the same whatever goes through
        (lambda n: n * (1 - 0.04 * (n == 4)), 8, 16),  # too little of a gain
        (lambda n: n + 20.0 * (n > 4), 2, 8),
        (lambda n: 10 + n + 50.0 * (n > 8), 8, 32),
        (lambda n: 100 + 1e-3 * n, 32, 32),
    ):
        tried = costs_of(monkeypatch, cost)
        assert cheapest_batch_size(lambda n: None, device, 8) == best
        assert max(tried) == last
        assert sum(tried) <= 2 * 16 * 8

    def narrow(n):
        if n > 4:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    costs_of(monkeypatch, lambda n: 1.0)
    assert cheapest_batch_size(narrow, device, 8) == 4
    with pytest.raises(ValueError, match="something else"):
        cheapest_batch_size(lambda n: int("something else"), device, 8)


def test_what_was_measured_is_kept_for_model_size_and_direction(net, images, monkeypatch):
    tried = costs_of(monkeypatch, lambda n: 10 + n + 100.0 * (n > 2))
    pair, image = PairSimilarity(net), images[0][:1]
    assert plan(pair, image).forward_images is None
    with pair.frozen():
        twin = accelerated(pair, image)
        assert images_per_pass(None, twin, image) == default_batch_size(image.device)
        assert images_per_pass(3, twin, image) == 3
        assert tried == []
        assert images_per_pass("auto", twin, image) == 2
        first = len(tried)
        assert images_per_pass("auto", accelerated(PairSimilarity(net), image), image) == 2
        assert len(tried) == first  # another wrapper of the same model
    assert plan(pair, image).forward_images == 2
    assert plan(pair, image).backward_channels is None
    assert plan(pair, image, measure=True).backward_channels == 2
    assert len(tried) == 2 * first
    wide = torch.rand(1, 3, 18, 20)
    assert plan(pair, wide).forward_images is None
    plan(pair, wide, measure=True)
    assert len(tried) == 4 * first
    assert not any(p.grad is not None for p in net.parameters())
    before = len(_MEASURED)
    del pair, twin, net
    gc.collect()
    assert len(_MEASURED) <= before


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("fggb", "internal_batch_size"),
        ("corrrise", "perturbations_per_eval"),
        ("rise", "perturbations_per_eval"),
        ("occlusion", "perturbations_per_eval"),
        ("xface", "perturbations_per_eval"),
    ],
)
def test_auto_is_a_batch_size_like_another(net, images, name, option):
    from tests.attr.test_contract import FAST

    for model in (net, lambda x: net(x)):  # the second hides its module
        method = METHODS[name].build(PairSimilarity(model))
        net.eval()
        options = FAST.get(name, {})
        got = method.attribute(images, **{option: "auto"}, **options)
        for x, y in zip(got, method.attribute(images, **options), strict=True):
            torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)
        for bad in ("all", 0, 2.5):
            with pytest.raises((TypeError, ValueError), match=option):
                method.attribute(images, **{option: bad}, **options)


def test_scores_of_curves_do_not_depend_on_auto(pair, images):
    maps = (images[0].flip(2), None)
    want = perturbation_curve(pair, images, maps, n_steps=4).scores
    got = perturbation_curve(pair, images, maps, n_steps=4, perturbations_per_eval="auto").scores
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


def test_nothing_is_left_of_two_hundred_calls(net, images):
    pair = PairSimilarity(net, threshold=0.2)
    inputs = tuple(image[:1] for image in images)
    calls = (
        lambda: FGGB(pair).attribute(inputs, internal_batch_size="auto"),
        lambda: CorrRISE(pair).attribute(inputs, n_masks=6, seed=0, perturbations_per_eval="auto"),
        lambda: perturbation_curve(pair, inputs, (inputs[0], None), n_steps=2),
        lambda: attribute_gallery(FGGB(pair), inputs[0], images[1]),
    )

    def held():
        gc.collect()
        return sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects()), len(_KNOWN), len(_MEASURED)

    for call in calls:
        call()
    before = held()
    for _ in range(50):
        for call in calls:
            call()
    assert held() == before


def test_half_as_many_where_memory_runs_out():
    seen = []

    def work(items):
        seen.append(len(items))
        if len(items) > 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")
        return items * 2

    items = torch.arange(10)
    assert torch.equal(torch.cat([*in_passes(work, items, 100)]), items * 2)
    assert seen == [10, 5, 2, 2, 2, 2, 2]

    def never(items):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.cuda.OutOfMemoryError):
        [*in_passes(never, items, 4)]


def test_methods_go_on_where_memory_runs_out(net, images):
    def model(x):
        if len(x) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return net(x)

    inputs = tuple(image[:1] for image in images)
    narrow, wide = PairSimilarity(model), PairSimilarity(net)
    for method, options in ((FGGB, {"internal_batch_size": 7}), (CorrRISE, {"n_masks": 11, "seed": 0})):
        got, want = method(narrow).attribute(inputs, **options), method(wide).attribute(inputs, **options)
        for x, y in zip(got, want, strict=True):
            torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"),
        MemoryError(),
    ],
)
def test_whatever_says_that_memory_ran_out(error):
    def work(items):
        if len(items) > 1:
            raise error
        return items

    assert torch.cat([*in_passes(work, torch.arange(5), 4)]).tolist() == [0, 1, 2, 3, 4]


def test_there_is_no_backward_pass_to_measure(net, images):
    @torch.no_grad()
    def model(x):
        return net(x)

    pair, inputs = PairSimilarity(model), tuple(image[:1] for image in images)
    with pytest.raises(TypeError, match="that can be differentiated"):
        FGGB(pair).attribute(inputs, internal_batch_size="auto")
    chosen = plan(pair, inputs[0], measure=True)
    assert chosen.forward_images >= 1
    assert chosen.backward_channels is None


@pytest.mark.real
def test_a_real_model_is_folded(real_pair, real_images):
    chosen = plan(real_pair, real_images[0])
    assert chosen.folded > 40
    twin = quick(real_pair, real_images[0])
    with torch.no_grad():
        expected = real_pair.embed(real_images[1])
        assert (twin.embed(real_images[1]) - expected).norm() < 1e-5 * expected.norm()
