from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn

from captum_face import FGGB, CorrRISE, PairSimilarity
from captum_face._batching import in_passes
from captum_face.channels import gradient_channel_maps
from captum_face.masks import masked_scores, random_patches
from captum_face.speed import _TWINS, _Twin, accelerated, plan
from tests.conftest import small_net
from tests.test_channels import looped_maps


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
    assert chosen.reason == "2 BatchNorm layers folded, channels last"


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


def test_a_twin_goes_with_its_model(images):
    net = small_net().eval()
    quick(PairSimilarity(net), images[0])
    gone, before = weakref.ref(net), len(_TWINS)
    del net
    gc.collect()
    assert gone() is None
    assert len(_TWINS) == before - 1


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
    reduced = PairSimilarity(net, precision="bfloat16")
    assert "bfloat16" in plan(reduced, images[0]).reason
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


@pytest.mark.real
def test_a_real_model_is_folded(real_pair, real_images):
    chosen = plan(real_pair, real_images[0])
    assert chosen.folded > 40
    twin = quick(real_pair, real_images[0])
    with torch.no_grad():
        expected = real_pair.embed(real_images[1])
        assert (twin.embed(real_images[1]) - expected).norm() < 1e-5 * expected.norm()
