"""A model is explained alike in whatever form it comes, or refused with what to do, by every method."""

from __future__ import annotations

import functools
import re
import warnings

import pytest
import torch
from torch import nn

from captum_face import METHODS, PairSimilarity
from captum_face.testing import model_state
from tests.attr.test_contract import FAST, every_method
from tests.conftest import small_net


class _CompiledInside(nn.Module):
    """Part of it is compiled."""

    def __init__(self, net):
        super().__init__()
        self.net = torch.compile(net, backend="aot_eager")

    def forward(self, x):
        return self.net(x)


class _Autocast(nn.Module):
    def __init__(self, net, back=True):
        super().__init__()
        self.net, self.back = net, back

    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            answer = self.net(x)
        return answer.float() if self.back else answer


def compiled_in_place(net):
    net.compile(backend="aot_eager")
    return net


def compiled_function(net):
    return torch.compile(lambda images: net(images), backend="aot_eager")


def exported(net):
    batch = {0: torch.export.Dim("n", min=1, max=512)}
    return torch.export.export(net, (torch.rand(2, 3, 18, 14),), dynamic_shapes=(batch,)).module(
        check_guards=False
    )


#: From the small network to the same network in another form, how far its maps may lie from the network's
#: own, and whether every method must explain it.
FORMS = {
    "compiled": (lambda net: torch.compile(net, backend="aot_eager"), 1e-4, True),
    "compiled inside": (_CompiledInside, 1e-4, True),
    "compiled in place": (compiled_in_place, 1e-4, True),
    "compiled function": (compiled_function, 1e-4, False),
    "method": (lambda net: net.forward, 1e-4, True),
    "partial": (lambda net: functools.partial(net), 1e-4, False),
    "data parallel": (nn.DataParallel, 1e-4, True),
    "autocast inside": (_Autocast, 0.3, True),
    "half precision out": (functools.partial(_Autocast, back=False), 0.3, True),
    "scripted": (torch.jit.script, 1e-4, False),
    "traced": (lambda net: torch.jit.trace(net, torch.rand(2, 3, 18, 14), check_trace=False), 1e-4, False),
    "exported": (exported, 1e-4, False),
}


def explained(method, model):
    pair = PairSimilarity(model, threshold=0.2, preprocess="arcface")
    generator = torch.Generator().manual_seed(5)
    images = tuple(torch.rand(1, 3, 18, 14, generator=generator) for _ in range(2))
    if isinstance(model, nn.Module):
        pair.eval()
    return torch.cat(method.build(pair).attribute(images, **FAST.get(method.name, {})))


@functools.cache
def plain(name):
    return explained(METHODS[name], small_net().eval())


#: Methods that need scores alone see nothing of a model: one of them stands for all.
HOOKED = [name for name, method in METHODS.items() if method.needs != "scores alone"]


@functools.cache
def model_in(form):
    torch._dynamo.reset()
    return FORMS[form][0](small_net().eval())


@pytest.mark.parametrize("name", [*HOOKED, "corrrise"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.filterwarnings("ignore")
def test_it_is_explained_as_the_network_is(name, form):
    method, model = METHODS[name], model_in(form)
    _, tolerance, always = FORMS[form]
    if method.name == "fame" and tolerance > 0.1:
        pytest.skip("FAME's loop enlarges what half precision rounds off")
    want = plain(method.name)
    if always:
        got = explained(method, model)
    else:
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("error", "the map of DeepLIFT sums to")
                got = explained(method, model)
        except (TypeError, ValueError, RuntimeError, UserWarning) as error:
            if re.search("expected|LRP needs|has no rule", str(error)) is None:
                raise
            return
    assert (got - want).norm() <= tolerance * want.norm()


QUANTISED = torch.ao.quantization.quantize_dynamic


@every_method
@pytest.mark.filterwarnings("ignore")
def test_what_has_no_gradients_is_refused_by_methods_that_need_them(method):
    model = QUANTISED(small_net().eval(), {nn.Linear}, dtype=torch.qint8)
    if method.needs != "gradients":
        assert explained(method, model).abs().sum() > 0
        return
    with pytest.raises(
        (TypeError, ValueError), match="expected a.*model that can be differentiated|no rule for"
    ):
        explained(method, model)


@pytest.mark.parametrize("name", HOOKED)
def test_a_compiled_model_is_left_as_it_was(name):
    """Its own answers stay compiled."""
    method = METHODS[name]
    torch._dynamo.reset()
    net = small_net().eval()
    before = model_state(net)
    model = torch.compile(net, backend="aot_eager")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        explained(method, model)
    assert model_state(net)[:3] == before[:3]  # to compile a module leaves an attribute
    assert torch._dynamo.eval_frame._stance.stance == "default"


@pytest.mark.parametrize("network", ["squeezed", "flat"])
def test_what_a_squeezed_embedding_is_told_works(network):
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 5)).eval()
    squeezing = PairSimilarity(lambda x: model(x).squeeze())
    image = torch.rand(1, 3, 4, 4)
    with pytest.raises(ValueError, match=r"reshape\(-1, D\)"):
        squeezing.embed(image)
    mended = PairSimilarity(lambda x: model(x).squeeze(), select=lambda out: out.reshape(-1, 5))
    for n in (1, 3):
        images = image.expand(n, -1, -1, -1)
        torch.testing.assert_close(mended.embed(images), model(images))


def exported_as_it_is(net):
    return torch.export.export(net, (torch.rand(2, 3, 18, 14),)).module()


@pytest.mark.filterwarnings("ignore")
def test_what_was_exported_in_training_mode_is_refused():
    with pytest.raises(ValueError, match=r"in training mode.*export it again after model.eval\(\)"):
        PairSimilarity(exported_as_it_is(small_net().train()))
    pair = PairSimilarity(exported_as_it_is(small_net().eval()))
    images = torch.rand(2, 3, 18, 14)
    torch.testing.assert_close(pair.embed(images), small_net().eval()(images))


def test_a_batch_norm_without_statistics():
    """Its eval mode mixes the images of a batch too."""
    model = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.Flatten(), nn.Linear(48, 5)).eval()
    images = torch.rand(3, 3, 4, 4)
    with pytest.warns(UserWarning, match="set max_batch_size=1"):
        PairSimilarity(model).embed(images)
    single = PairSimilarity(model, max_batch_size=1).embed(images)
    torch.testing.assert_close(single, torch.cat([model(image[None]) for image in images]))


@pytest.mark.filterwarnings("ignore")
def test_what_has_no_gradients_is_seen_before_the_maps():
    model = QUANTISED(small_net().eval(), {nn.Linear}, dtype=torch.qint8)
    images = torch.rand(1, 3, 18, 14), torch.rand(1, 3, 18, 14)
    with pytest.raises(TypeError, match="expected an embedding model that can be differentiated"):
        METHODS["saliency"].build(PairSimilarity(model)).check(images)
    METHODS["saliency"].build(PairSimilarity(small_net().eval())).check(images)
