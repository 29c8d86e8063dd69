from __future__ import annotations

import functools
import warnings

import captum.attr
import numpy as np
import pytest
import torch
from torch import nn

from captum_face import FGGB, PairSimilarity
from captum_face.attr.each_side import EachSide
from captum_face.maps.signed import smooth
from captum_face.pair.scores import Score


def close(got, want, tolerance=1e-5):
    torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance * float(want.abs().max()))


def one_by_one(pair, images, method_class, **options):
    """Captum called directly, a pair at a time; options may be functions of (own, partner)."""
    sides = []
    for own, partner in (images, images[::-1]):
        rows = []
        for i in range(3):
            x, y = own[i, None].clone(), partner[i, None]
            mine = {k: v(x, y) if callable(v) else v for k, v in options.items()}
            with pair.frozen():
                rows.append(method_class(pair.against(y)).attribute(x, **mine).detach())
        sides.append(torch.cat(rows))
    return sides


@pytest.mark.filterwarnings("ignore:Input Tensor", "ignore:Setting")
@pytest.mark.parametrize(
    ("method_class", "options"),
    [
        (captum.attr.Saliency, {}),
        (captum.attr.Saliency, {"abs": False}),
        (captum.attr.InputXGradient, {}),
        (captum.attr.IntegratedGradients, {"n_steps": 5}),
        (
            captum.attr.IntegratedGradients,
            {"n_steps": 9, "internal_batch_size": 2, "method": "riemann_trapezoid"},
        ),
        (captum.attr.Occlusion, {"sliding_window_shapes": (3, 4, 4), "strides": (3, 3, 3)}),
        (captum.attr.FeatureAblation, {"feature_mask": torch.arange(14).expand(1, 1, 18, 14)}),
        (captum.attr.ShapleyValues, {"feature_mask": (torch.arange(252) // 90).reshape(1, 1, 18, 14)}),
        (captum.attr.Deconvolution, {}),
    ],
)
def test_equals_captum_called_directly(images, method_class, options):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16 * 12, 6)).eval()
    pair = PairSimilarity(net)
    expected = one_by_one(pair, images, method_class, **options)
    for got, want in zip(EachSide(pair, method_class).attribute(images, **options), expected, strict=True):
        close(got, want)


@pytest.mark.parametrize(
    ("baselines", "expected"),
    [
        ("black", lambda own, partner: torch.zeros_like(own)),
        ("blurred", lambda own, partner: smooth(own, 1.4)),
        ("partner", lambda own, partner: partner),
        (0.25, lambda own, partner: torch.full_like(own, 0.25)),
        (torch.full((3, 1, 1), 0.5), lambda own, partner: torch.full_like(own, 0.5)),
    ],
)
@pytest.mark.filterwarnings("ignore:Input Tensor")
def test_baselines(pair, images, baselines, expected):
    method = EachSide(pair, captum.attr.IntegratedGradients)
    got = method.attribute(images, baselines=baselines, n_steps=4)
    want = one_by_one(pair, images, captum.attr.IntegratedGradients, baselines=expected, n_steps=4)
    for left, right in zip(got, want, strict=True):
        close(left, right)


def test_baselines_of_each_side_and_each_image(pair, images):
    """A tuple for the sides, N images in order; a tuple with a name in it."""
    rows = torch.rand(3, 3, 18, 14)
    method = EachSide(pair, captum.attr.IntegratedGradients)
    got = method.attribute(images, baselines=(rows, "partner"), n_steps=4)
    for i in range(3):
        a, b = (image[i, None] for image in images)
        alone = method.attribute((a, b), baselines=(rows[i, None], a), n_steps=4)
        for left, right in zip(got, alone, strict=True):
            close(left[i, None], right)


@pytest.mark.parametrize("two", [(0.2, "partner"), ("black", torch.full((1, 3, 18, 14), 0.7))])
def test_each_side_has_its_own_of_two_baselines(pair, images, two):
    method = EachSide(pair, captum.attr.IntegratedGradients)
    both = method.attribute(images, baselines=two, n_steps=2)
    for side in (0, 1):
        assert torch.equal(both[side], method.attribute(images, baselines=two[side], n_steps=2)[side])


def test_a_sample_of_baselines_goes_to_every_image_whole(net, images):
    """Three faces for three images: a sample, not one each."""
    pair = PairSimilarity(nn.Sequential(nn.Flatten(), nn.Linear(756, 4)), score="dot")
    sample = torch.stack([torch.full((3, 18, 14), value) for value in (0.0, 0.5, 1.0)])
    method = EachSide(pair, captum.attr.GradientShap)
    attr, _ = method.attribute(images, baselines=sample, n_samples=60, seed=0)
    for i in range(3):
        a, b = (image[i, None] for image in images)
        x = a.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(pair(x, b).sum(), x)
        drawn = a - attr[i] / gradient  # the mean of the baselines that were drawn
        close(drawn, torch.full_like(a, float(drawn.mean())), 1e-2)
        assert 0.3 < float(drawn.mean()) < 0.7


@pytest.mark.parametrize(
    "method_class",
    [captum.attr.DeepLiftShap, captum.attr.LayerGradientShap, captum.attr.LayerDeepLiftShap,
     captum.attr.NeuronGradientShap, captum.attr.NeuronDeepLiftShap],
)  # fmt: skip
def test_all_methods_with_samples_of_baselines_see_them_whole(images, method_class, monkeypatch):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(768, 4)).eval()
    seen = []
    attribute = method_class.attribute

    @functools.wraps(attribute)
    def spy(self, *args, **options):
        seen.append(options["baselines"])
        return attribute(self, *args, **options)

    monkeypatch.setattr(method_class, "attribute", spy)
    sample = torch.rand(3, 3, 18, 14)  # as many as there are images
    layered = {} if method_class is captum.attr.DeepLiftShap else {"layer": "0"}
    neuron = {"neuron_selector": (0, 1, 1)} if "Neuron" in method_class.__name__ else {}
    EachSide(PairSimilarity(net), method_class, **layered).attribute(images, baselines=sample, **neuron)
    assert len(seen) == 6
    assert all(torch.equal(baselines, sample) for baselines in seen)


def test_options_of_tensors_may_differ_between_sides(pair, images):
    mask_a, mask_b = (torch.arange(14) // k for k in (3, 5))
    masks = tuple(mask.expand(1, 1, 18, 14) for mask in (mask_a, mask_b))
    method = EachSide(pair, captum.attr.FeatureAblation)
    both = method.attribute(images, feature_mask=masks)
    for side in (0, 1):
        assert torch.equal(both[side], method.attribute(images, feature_mask=masks[side])[side])


def test_attributions_of_layers_are_upsampled(net, pair, images):
    attr, _ = EachSide(pair, captum.attr.LayerGradCam, layer=net.conv2).attribute(images)
    assert attr.shape == images[0].shape
    with pair.frozen():
        cam = captum.attr.LayerGradCam(pair.against(images[1]), net.conv2).attribute(images[0])
    want = nn.functional.interpolate(cam, (18, 14), mode="bilinear")
    close(attr, want.expand_as(attr).detach())


def test_the_channels_of_a_layer_add_up(net, pair, images):
    attr, _ = EachSide(pair, captum.attr.LayerGradientXActivation, layer="conv2").attribute(images)
    with pair.frozen():
        parts = captum.attr.LayerGradientXActivation(pair.against(images[1]), net.conv2).attribute(images[0])
    assert parts.shape[1] == 6
    want = nn.functional.interpolate(parts.sum(1, keepdim=True), (18, 14), mode="bilinear")
    close(attr, want.expand_as(attr).detach())


def test_layers_by_name(net, pair, images):
    by_name, _ = EachSide(pair, captum.attr.LayerGradCam, layer="conv2").attribute(images)
    by_module, _ = EachSide(pair, captum.attr.LayerGradCam, layer=net.conv2).attribute(images)
    assert torch.equal(by_name, by_module)
    for layer, message in (("conv3", "did you mean 'conv"), (nn.Conv2d(3, 3, 1), "not in it")):
        with pytest.raises(ValueError, match=message):
            EachSide(pair, captum.attr.LayerGradCam, layer=layer).attribute(images)


def test_sides_of_a_score_that_is_not_symmetric(images):
    class First(Score):
        name = "first"

        def contributions(self, emb_a, emb_b):
            return emb_a + 0 * emb_b

    pair = PairSimilarity(nn.Sequential(nn.Flatten(), nn.Linear(756, 4)), score=First())
    attr_a, attr_b = EachSide(pair, captum.attr.InputXGradient).attribute(images)
    assert attr_a.abs().sum() > 0
    assert attr_b.abs().sum() == 0
    _, black_box = EachSide(lambda a, b: a.mean((1, 2, 3)), captum.attr.FeatureAblation).attribute(
        images, feature_mask=torch.zeros(1, 1, 18, 14, dtype=torch.long)
    )
    assert black_box.abs().sum() == 0


def test_seed_repeats_and_leaves_the_global_states(pair, images):
    method = EachSide(pair, captum.attr.GradientShap)
    options = {"baselines": torch.rand(5, 3, 18, 14), "n_samples": 4, "stdevs": 0.1}
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first, again = (method.attribute(images, seed=3, **options)[0] for _ in range(2))
    assert torch.equal(first, again)
    generator = torch.Generator().manual_seed(3)
    assert torch.equal(first, method.attribute(images, generator=generator, **options)[0])
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()  # noqa: NPY002
    assert not torch.equal(first, method.attribute(images, seed=4, **options)[0])
    assert not torch.equal(first, method.attribute(images, **options)[0])


def test_the_global_states_come_back_after_an_error(images):
    def fails(a, b):
        np.random.rand()  # noqa: NPY002
        raise RuntimeError("midway")

    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    with pytest.raises(RuntimeError, match="midway"):
        EachSide(fails, captum.attr.FeatureAblation).attribute(images, seed=0)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002


def test_warnings_of_the_model_are_not_silenced(pair, images):
    class Talking(nn.Module):
        def forward(self, x):
            warnings.warn("from the model", UserWarning, stacklevel=1)
            return x.flatten(1)

    with pytest.warns(UserWarning, match="from the model"):
        EachSide(PairSimilarity(Talking()), captum.attr.Saliency).attribute(images)


class Answering(captum.attr.Attribution):
    """A method that answers whatever it is told to."""

    def __init__(self, forward_func, answer):
        super().__init__(forward_func)
        self.answer = answer

    def attribute(self, inputs):
        return self.answer


INTEGRATED, SHAP = captum.attr.IntegratedGradients, captum.attr.GradientShap
NAN = torch.full((1, 3, 18, 14), float("nan"))


@pytest.mark.parametrize(
    ("method_class", "init", "options", "error", "message"),
    [
        (lambda f: f, {}, {}, TypeError, "class of captum.attr"),
        (nn.Linear, {}, {}, TypeError, "class of captum.attr"),
        (FGGB, {}, {}, TypeError, r"use FGGB\(pair\)"),
        (captum.attr.NoiseTunnel, {}, {}, TypeError, r"NoiseTunnel\(EachSide"),
        (captum.attr.FeaturePermutation, {}, {}, TypeError, "permutes a batch"),
        (captum.attr.Saliency, {}, {"abz": True}, ValueError, "did you mean 'abs'"),
        (captum.attr.Saliency, {}, {"target": 1}, ValueError, "unknown option of Saliency 'target'"),
        (INTEGRATED, {}, {"baselines": "blak"}, ValueError, "did you mean 'black'"),
        (INTEGRATED, {}, {"baselines": (0, 0, 0)}, ValueError, "two sides"),
        (INTEGRATED, {}, {"baselines": 255}, ValueError, r"in \[0, 1\]"),
        (INTEGRATED, {}, {"baselines": torch.zeros(2, 3, 18, 14)}, ValueError, "fit images"),
        (SHAP, {}, {"baselines": 0}, ValueError, "sample of images"),
        (SHAP, {}, {"baselines": torch.zeros(4, 3, 9, 9)}, ValueError, "sample of images"),
        (INTEGRATED, {}, {"return_convergence_delta": True, "n_steps": 2}, ValueError, "convergence deltas"),
        (Answering, {"answer": NAN}, {}, ValueError, "finite attributions"),
        (Answering, {"answer": torch.zeros(1, 5)}, {}, ValueError, r"got \(1, 5\)"),
        (captum.attr.Saliency, {}, {"seed": 1.5}, TypeError, "seed as an integer"),
    ],
)  # fmt: skip
def test_bad_use(pair, images, method_class, init, options, error, message):
    with pytest.raises(error, match=message):
        EachSide(pair, method_class, **init).attribute(images, **options)


def test_gradients_of_what_has_none(images):
    with pytest.raises(TypeError, match="expected a PairSimilarity"):
        EachSide(lambda a, b: a.mean((1, 2, 3)), captum.attr.Saliency).attribute(images)
    pair = PairSimilarity(lambda x: x.flatten(1).detach().numpy())
    for method_class in (captum.attr.Saliency, captum.attr.IntegratedGradients):
        with pytest.raises(TypeError, match="can be differentiated"):
            EachSide(pair, method_class).attribute(images)


def test_black_boxes_under_perturbation_methods(pair, images):
    def service(a, b):
        with torch.no_grad():
            return pair(a, b).numpy()

    options = {"feature_mask": (torch.arange(14) // 3).expand(1, 1, 18, 14), "perturbations_per_eval": 3}
    inside, outside = (
        EachSide(f, captum.attr.FeatureAblation).attribute(images, **options) for f in (pair, service)
    )
    for got, want in zip(outside, inside, strict=True):
        close(got, want, 1e-4)


def test_under_noise_tunnel_and_inference_mode(pair, images):
    method = EachSide(pair, captum.attr.Saliency)
    with torch.inference_mode():
        inside = method.attribute(tuple(image.clone() for image in images))
    for got, want in zip(inside, method.attribute(images), strict=True):
        close(got, want)
    attr = captum.attr.NoiseTunnel(method).attribute(images, nt_samples=2, stdevs=0.02)
    assert attr[0].shape == images[0].shape
