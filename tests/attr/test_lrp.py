"""LRP on pairs: conservation, the traps that real networks set, and bad input."""

from __future__ import annotations

import importlib.abc
import sys

import pytest
import torch
from torch import nn
from zennit import types
from zennit.canonizers import SequentialMergeBatchNorm
from zennit.composites import LayerMapComposite
from zennit.rules import Epsilon, Gamma, Pass, ZPlus

from captum_face import FGGB, PairSimilarity
from captum_face.attr.bilrp import BiLRP
from captum_face.attr.lrp import LRP
from captum_face.lrp import COMPOSITES
from captum_face.lrp.propagation import relevance_maps_chunked
from captum_face.models import iresnet18, load_onnx, mobilefacenet
from captum_face.pair.preprocessing import Normalize
from tests.attr.test_contract import same_state, state
from tests.conftest import small_net


def scores(pair, images):
    with torch.no_grad():
        return pair(*images)


def ratios(pair, images, **options):
    """Sum and total absolute relevance over the score, of both sides."""
    maps, delta = LRP(pair, **options).attribute(images, return_convergence_delta=True)
    score = scores(pair, images)
    sums = 1 + delta / score[:, None]
    size = torch.stack([side.abs().flatten(1).sum(1) for side in maps], 1) / score.abs()[:, None]
    return sums, size


# --- what it computes


def test_the_default_conserves_the_score_and_the_delta_says_so(pair, images):
    maps, delta = LRP(pair).attribute(images, return_convergence_delta=True)
    assert delta.shape == (3, 2)
    for side, column in zip(maps, delta.T, strict=True):
        torch.testing.assert_close(side.flatten(1).sum(1) - scores(pair, images), column)
    assert delta.abs().max() < 1e-5 * scores(pair, images).abs().max()
    assert LRP(pair).has_convergence_delta()


@pytest.mark.parametrize("score", ["cosine", "dot", "euclidean"])
def test_relevance_starts_as_the_channels_share_of_the_score(net, images, score):
    pair = PairSimilarity(net, score=score, preprocess="arcface")
    attr_a, attr_b = LRP(pair).attribute(images)
    with pair.frozen(), torch.no_grad():
        shares = pair.contributions(pair.embed(images[0]), pair.embed(images[1]))
    for attr, image in ((attr_a, images[0]), (attr_b, images[1])):
        with pair.frozen():
            maps = torch.cat([m for _, m in relevance_maps_chunked(pair, image[1:2], internal_batch_size=3)])
        torch.testing.assert_close(attr[1], torch.einsum("k,kchw->chw", shares[1], maps))


def test_a_linear_embedding_in_closed_form():
    """Epsilon on one linear layer is weight times pixel, each channel scaled to its share."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(27, 4, bias=False)).double()
    pair = PairSimilarity(model)
    images = torch.rand(2, 3, 3, 3).double(), torch.rand(2, 3, 3, 3).double()
    rules = LayerMapComposite([(types.Linear, Epsilon(1e-15))])
    attr_a, _ = LRP(pair, composite=rules).attribute(images)
    for n in range(2):
        x, y = images[0][n].flatten(), images[1][n].flatten()
        w = model[1].weight.detach()
        e, f = w @ x, w @ y
        shares = e * f / e.norm() / f.norm()
        want = torch.stack([w[k] * x / e[k] * shares[k] for k in range(4)]).sum(0)
        torch.testing.assert_close(attr_a[n].flatten(), want, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "preprocess",
    [None, "arcface", "adaface", Normalize((0.1, 0.2, 0.3), (0.5, 2, -1), bgr=True),
     lambda x: nn.functional.interpolate(x, (9, 7), mode="area")],
)  # fmt: skip
def test_relevance_passes_the_preprocessing_to_the_pixels_it_came_from(images, preprocess):
    pair = PairSimilarity(small_net().eval(), preprocess=preprocess)
    outer, _ = LRP(pair).attribute(images)
    with torch.no_grad():
        inner_images = tuple(pair.preprocess(image) for image in images)
    inner_pair = PairSimilarity(pair.embedding_model)
    with pytest.warns() if float(inner_images[0].min()) < -0.5 else torch.no_grad():
        inner, _ = LRP(inner_pair).attribute(inner_images)
    if inner.shape != outer.shape:  # every area is four pixels
        inner = inner.repeat_interleave(2, 2).repeat_interleave(2, 3) / 4
    elif preprocess == "adaface" or isinstance(preprocess, Normalize):
        inner = inner.flip(1)
    torch.testing.assert_close(outer, inner, rtol=1e-4, atol=1e-7)


def test_preprocessing_in_place_leaves_the_images(net, images):
    pair = PairSimilarity(net, preprocess=lambda x: x.pow_(2).flip(1))  # whose Jacobian is not the same twice
    plain = PairSimilarity(net, preprocess=lambda x: x.pow(2).flip(1))
    before = [image.clone() for image in images]
    for got, want in zip(LRP(pair).attribute(images), LRP(plain).attribute(images), strict=True):
        torch.testing.assert_close(got, want)
    for image, copy in zip(images, before, strict=True):
        assert torch.equal(image, copy)


def test_a_fixed_batch_without_canonization(images):
    class Single(nn.Sequential):
        def forward(self, x):
            assert len(x) == 1
            return super().forward(x)

    pair = PairSimilarity(Single(nn.Flatten(), nn.Linear(756, 5)), max_batch_size=1)
    sides = images[0][:1], images[1]
    for got, want in zip(
        LRP(pair, canonizers=None).attribute(sides), LRP(pair).attribute(sides), strict=True
    ):
        torch.testing.assert_close(got, want)


def test_hooks_of_the_model_see_tensors_only(net, images):
    seen = []
    for module in net.modules():
        module.register_forward_hook(lambda m, args, output: seen.append(type(output)))
    LRP(PairSimilarity(net)).attribute(images)
    assert set(seen) == {torch.Tensor}


def test_one_image_against_many_goes_forward_once(net, images):
    calls = []
    net.register_forward_hook(lambda *_: calls.append(1))
    pair = PairSimilarity(net)
    LRP(pair).attribute((images[0][:1], images[1]))
    assert len(calls) == 2 + 4  # both sides, and one check for each of the four images


@pytest.mark.parametrize("name", COMPOSITES)
def test_every_composite_by_name_runs_and_reports_its_delta(pair, images, name):
    maps, delta = LRP(pair, composite=name).attribute(images, return_convergence_delta=True)
    assert all(torch.isfinite(side).all() and side.abs().sum() > 0 for side in maps)
    for side, column in zip(maps, delta.T, strict=True):
        torch.testing.assert_close(side.flatten(1).sum(1) - scores(pair, images), column)


def test_the_box_is_the_range_of_preprocessed_images(pair, images):
    """Built by hand from black and white after (x - 0.5) / 0.5."""
    from zennit.composites import EpsilonGammaBox

    low, high = torch.full((1, 3, 1, 1), -1.0), torch.full((1, 3, 1, 1), 1.0)
    by_hand = EpsilonGammaBox(low, high, zero_params=["bias"])
    for got, want in zip(
        LRP(pair, composite="epsilon_gamma_box").attribute(images),
        LRP(pair, composite=by_hand).attribute(images),
        strict=True,
    ):
        torch.testing.assert_close(got, want)


def test_biases_take_relevance_only_when_asked(pair, images):
    without, _ = ratios(pair, images)
    asked, _ = ratios(pair, images, biases=True)
    torch.testing.assert_close(without, torch.ones(3, 2), rtol=1e-4, atol=1e-4)
    assert (asked - 1).abs().max() > 0.05


@pytest.mark.parametrize("name", ["epsilon_plus", "epsilon_alpha2_beta1", "epsilon_gamma_box"])
def test_biases_of_zennits_composites_take_relevance_only_when_asked(pair, images, name):
    without, asked = (LRP(pair, composite=name, biases=b).attribute(images)[0] for b in (False, True))
    assert (without - asked).abs().max() > 1e-3 * without.abs().max()


@pytest.mark.parametrize("method", [LRP, BiLRP])
def test_reduced_precision_is_not_heeded(net, images, method):
    reduced = PairSimilarity(net, preprocess="arcface", precision="bfloat16")
    full = PairSimilarity(net, preprocess="arcface")
    for got, want in zip(method(reduced).attribute(images), method(full).attribute(images), strict=True):
        assert torch.equal(got, want)
    assert reduced.precision == "bfloat16"
    start = torch.eye(7)[:2]
    rows = [r for pair in (reduced, full) for _, r in relevance_maps_chunked(pair, images[0][:1], start)]
    assert torch.equal(*rows)


def test_canonizers_none_takes_the_modules_as_they_are(images):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.PReLU(4), nn.Flatten(), nn.Linear(4 * 18 * 14, 5))
    pair = PairSimilarity(net)
    before = state(pair)
    plain = LRP(pair, canonizers=None).attribute(images)
    assert same_state(before, state(pair))
    for got, want in zip(plain, LRP(pair).attribute(images), strict=True):
        torch.testing.assert_close(got, want)


def test_zennits_canonizers_are_applied_and_undone(images):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(768, 5)
    )
    net(images[0])
    pair = PairSimilarity(net.eval())
    before = state(pair)
    given = LRP(pair, canonizers=[SequentialMergeBatchNorm()]).attribute(images)
    assert same_state(before, state(pair))
    for got, want in zip(given, LRP(pair).attribute(images), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-7)


def test_a_bound_method_and_a_selected_answer(net, images):
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x):
            raise AssertionError("not this one")

        def encode(self, x):
            return {"embedding": self.net(x), "quality": x.mean()}

    got = LRP(PairSimilarity(Wrapped().encode, select="embedding")).attribute(images)
    for attr, want in zip(got, LRP(PairSimilarity(net)).attribute(images), strict=True):
        torch.testing.assert_close(attr, want)


def test_modes_of_autograd_do_not_reach_the_caller(pair, images):
    with pair.frozen(), torch.no_grad():
        for _, maps in relevance_maps_chunked(pair, images[0][:1], internal_batch_size=3):
            assert not torch.is_grad_enabled()
            assert not maps.requires_grad


def test_inference_mode(pair, images):
    with torch.inference_mode():
        inside = LRP(pair).attribute(tuple(image.clone() for image in images))
    for got, want in zip(inside, LRP(pair).attribute(images), strict=True):
        torch.testing.assert_close(got, want)


# --- what it leaves


@pytest.mark.parametrize("canonizers", ["auto", None, [SequentialMergeBatchNorm()]])
def test_the_model_is_untouched_after_an_error_in_a_rule(images, canonizers):
    class Failing(Pass):
        def backward(self, module, grad_input, grad_output):
            raise RuntimeError("in the rule")

    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(768, 5))
    pair = PairSimilarity(net)
    before = state(pair)
    rules = LayerMapComposite([(types.Activation, Failing())])
    with pytest.raises(RuntimeError, match="in the rule"):
        LRP(pair, composite=rules, canonizers=canonizers).attribute(images)
    assert same_state(before, state(pair))


def test_a_canonizer_that_fails_leaves_the_model(images):
    class Failing(SequentialMergeBatchNorm):
        def apply(self, root_module):
            raise RuntimeError("in the canonizer")

    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(768, 5))
    pair = PairSimilarity(net)
    before = state(pair)
    with pytest.raises(RuntimeError, match="in the canonizer"):
        LRP(pair, canonizers=[SequentialMergeBatchNorm(), Failing()]).attribute(images)
    assert same_state(before, state(pair))


# --- bad input


def test_a_composite_that_does_not_exist(pair, images):
    with pytest.raises(ValueError, match="did you mean 'epsilon_plus'"):
        LRP(pair, composite="epsilon_pls").attribute(images)
    with pytest.raises(TypeError, match="expected composite as a zennit Composite"):
        LRP(pair, composite=3).attribute(images)
    with pytest.raises(TypeError, match="got the class LayerMapComposite"):
        LRP(pair, composite=LayerMapComposite).attribute(images)


def test_canonizers_of_another_kind(pair, images):
    with pytest.raises(TypeError, match="expected canonizers as 'auto'"):
        LRP(pair, canonizers="automatic").attribute(images)
    with pytest.raises(TypeError, match=r"got \[<class"):
        LRP(pair, canonizers=[SequentialMergeBatchNorm]).attribute(images)


def test_a_model_that_cannot_be_traced(images):
    class Items(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = small_net()

        def forward(self, x):
            return self.net(x) * (1 + x.mean().item())

    with pytest.raises(RuntimeError, match=r"cannot be traced.*takes float out of a tensor.*canonizers="):
        LRP(PairSimilarity(Items())).attribute(images)


def test_a_function_instead_of_a_module(net, images):
    with pytest.raises(TypeError, match=r"expected an nn.Module, got '<lambda>'.*select="):
        LRP(PairSimilarity(lambda x: net(x))).attribute(images)


def test_a_layer_without_a_rule_is_named_and_can_be_allowed(images):
    net = nn.Sequential(nn.Flatten(), nn.Linear(756, 8), nn.LayerNorm(8), nn.Linear(8, 5))
    pair = PairSimilarity(net)
    with pytest.raises(ValueError, match=r"no rule for LayerNorm at '2'.*unknown_layers='gradient'"):
        LRP(pair).attribute(images)
    LRP(pair, unknown_layers="gradient").attribute(images)
    with pytest.raises(ValueError, match="did you mean 'gradient'"):
        LRP(pair, unknown_layers="gradients").attribute(images)


def test_a_model_that_branches_on_what_is_in_the_image(images):
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.light, self.dark = nn.Linear(756, 5), nn.Linear(756, 5)

        def forward(self, x):
            return (self.light if x.mean() > 0.5 else self.dark)(x.flatten(1))

    dark = tuple(image * 0.5 for image in images)
    pair = PairSimilarity(Branching())
    LRP(pair).attribute((dark[0][:1], dark[1][:1]))
    mixed = torch.cat([dark[0][:1], 0.5 + dark[0][1:2]])
    with pytest.raises(ValueError, match=r"give the model's embedding.*branches on what is in the image"):
        LRP(pair).attribute((mixed[:1], mixed[1:]))


def test_a_layer_called_twice_without_canonization(images):
    relu = nn.ReLU()
    net = nn.Sequential(nn.Conv2d(3, 4, 3), relu, nn.Conv2d(4, 4, 3), relu, nn.Flatten(), nn.Linear(560, 5))
    pair = PairSimilarity(net)
    LRP(pair).attribute(images)
    with pytest.raises(ValueError, match="two calls of '1'"):
        LRP(pair, canonizers=None).attribute(images)


def test_preprocessing_without_a_gradient(net, images):
    pair = PairSimilarity(net, preprocess=lambda x: x.detach() * 2)
    with pytest.raises(TypeError, match="expected preprocessing that can be differentiated"):
        LRP(pair).attribute(images)


def test_a_model_without_a_gradient(images):
    class Detached(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = small_net()

        def forward(self, x):
            with torch.no_grad():
                return self.net(x)

    pair = PairSimilarity(Detached().eval())
    before = state(pair)
    for composite in ("face", "epsilon_plus"):
        with pytest.raises(TypeError, match=r"embedding model that can be differentiated.*CorrRISE"):
            LRP(pair, composite=composite, canonizers=None).attribute(images)
        assert same_state(before, state(pair))


def test_rules_that_explode_are_an_error(images):
    class Exploding(Pass):
        def backward(self, module, grad_input, grad_output):
            return (grad_output[0] * float("inf"),)

    pair = PairSimilarity(small_net().eval())
    with pytest.raises(ValueError, match="expected finite relevance"):
        LRP(pair, composite=LayerMapComposite([(nn.PReLU, Exploding())])).attribute(images)


@pytest.mark.parametrize("method", [LRP, BiLRP])
@pytest.mark.parametrize(
    ("broken", "error", "message"),
    [
        ("zennit", ModuleNotFoundError("gone", name="zennit"), "zennit, which is not installed"),
        (
            "torchvision",
            RuntimeError("operator torchvision::nms does not exist"),
            "torchvision::nms does not",
        ),
    ],
)
def test_without_zennit_the_error_says_what_to_install(
    pair, images, monkeypatch, method, broken, error, message
):
    """A missing package, and a torchvision that was built for another torch; nothing else needs them."""

    class Broken(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path, target=None):
            if name.split(".")[0] == broken:
                raise error

    for name in list(sys.modules):
        if name.split(".")[0] in ("zennit", "torchvision") or name.startswith("captum_face.lrp"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    FGGB(pair).attribute(images)
    with pytest.raises(ImportError, match=rf'{message}.*pip install "captum-face\[lrp\]"'):
        method(pair).attribute(images)


# --- real networks


def with_data_statistics(model, images):
    """BatchNorms as after training: the statistics are those of images."""
    generator = torch.Generator().manual_seed(0)
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        with torch.no_grad():
            norm.weight.copy_(0.6 + 0.8 * torch.rand(norm.weight.shape, generator=generator))
            norm.bias.copy_(0.2 * torch.randn(norm.bias.shape, generator=generator))
    with torch.no_grad():
        model.train()(images)
    return model.eval()


@pytest.mark.real
def test_trap_2_canonizers_by_registration_order_are_refused_on_mobilefacenet(real_pair, real_images):
    images = tuple(image[:1] for image in real_images)
    before = state(real_pair)
    with pytest.raises(ValueError, match=r"give the model's embedding.*'dw_conv.bn1'"):
        LRP(real_pair, canonizers=[SequentialMergeBatchNorm()]).attribute(images)
    assert same_state(before, state(real_pair))
    sums, _ = ratios(real_pair, images)  # and ours gives the score
    torch.testing.assert_close(sums, torch.ones(1, 2), rtol=0.01, atol=0)


@pytest.mark.real
@pytest.mark.parametrize("network", ["mobilefacenet", "prelu", "onnx", "iresnet18"])
def test_trap_3_the_default_conserves_and_is_stable(shared, real_pair, real_images, network):
    pair = real_pair
    if network == "prelu":
        model = mobilefacenet(activation="prelu")
        model.load_state_dict(real_pair.embedding_model.state_dict(), strict=False)  # slopes stay 0.25
        pair = PairSimilarity(model.eval(), preprocess="imagenet")
    elif network == "onnx":
        pair = PairSimilarity(
            load_onnx(shared / "models" / "mobilefacenet.onnx", check=False), preprocess="imagenet"
        )
    elif network == "iresnet18":
        torch.manual_seed(0)
        pair = PairSimilarity(iresnet18(), preprocess="arcface")
        with_data_statistics(pair.embedding_model, pair.preprocess(torch.cat(real_images)))
    images = tuple(image[:1] for image in real_images)
    assert scores(pair, images).abs().min() > 0.1
    sums, size = ratios(pair, images)
    assert (sums - 1).abs().max() <= 0.05
    assert size.max() <= 30


@pytest.mark.real
def test_trap_3_what_other_rules_do_on_a_prelu_mobilefacenet(real_pair, real_images):
    """The table of the rules: z-plus loses, small gamma explodes, gamma 10 conserves."""
    model = mobilefacenet(activation="prelu")
    model.load_state_dict(real_pair.embedding_model.state_dict(), strict=False)
    pair = PairSimilarity(model.eval(), preprocess="imagenet")
    images = tuple(image[:1] for image in real_images)

    def with_rule(rule):
        layers = [(types.Activation, Pass()), (types.Linear, rule)]
        return LayerMapComposite([*layers, *sums_of_zennit()])

    def sums_of_zennit():
        from zennit.composites import layer_map_base

        return layer_map_base()

    none = {"zero_params": ["bias"]}
    lost, _ = ratios(pair, images, composite=with_rule(ZPlus(**none)))
    assert lost.max() < 0.9
    exploded, size = ratios(pair, images, composite=with_rule(Gamma(0.25, **none)))
    assert size.max() > 1e6
    assert (exploded - 1).abs().max() > 1
    conserved, size = ratios(pair, images, composite=with_rule(Gamma(10, **none)))
    torch.testing.assert_close(conserved, torch.ones(1, 2), rtol=0.01, atol=0)
    assert size.max() < 30
