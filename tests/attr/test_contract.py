"""What every registered method keeps to, whatever it computes."""

from __future__ import annotations

import inspect
import re
import warnings

import pytest
import torch
from captum.attr import NoiseTunnel, visualization
from captum.metrics import infidelity, sensitivity_max
from torch import nn

from captum_face import METHODS, PairSimilarity, attribute_gallery, split_attribution
from tests.conftest import small_decoder, small_net

#: Options that make a method quick and repeatable.
FAST = {
    "corrrise": {"n_masks": 12, "n_patches": 2, "seed": 0},
    "rise": {"n_masks": 12, "grid": 3, "seed": 0},
    "xface": {"sizes": (6,), "stride": 6},
    "minplus": {"grid": 3, "n_steps": 2},
    "fame": {"n_steps": 3},
    "integrated_gradients": {"n_steps": 4},
    "integrated_gradients_blurred": {"n_steps": 4},
    "integrated_gradients_partner": {"n_steps": 4},
    "gradient_shap": {"n_samples": 3, "seed": 0},
    "occlusion": {"window": 5, "strides": 4},
    "kernel_shap": {"n_samples": 40, "seed": 0},
    "reconstruction": {"decoder": small_decoder()},
    "morph_gradients": {"n_points": 4, "seed": 0},
    "swap_rise": {"n_masks": 12, "n_patches": 2, "n_cohort": 3, "seed": 0},
    "random": {"seed": 0},
}

#: What methods call the images in one pass.
BATCH_SIZES = {"internal_batch_size", "perturbations_per_eval"}

#: Null baselines never look at the model.
looking_method = pytest.mark.parametrize(
    "method", [m for m in METHODS.values() if m.family != "null baseline"], ids=lambda m: m.name
)
batched_method = pytest.mark.parametrize(
    "method",
    [m for m in METHODS.values() if BATCH_SIZES & m.build(None).options().keys()],
    ids=lambda m: m.name,
)
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=list(METHODS))


def attribute(method, pair, inputs, **options):
    return method.build(pair).attribute(inputs, **{**FAST.get(method.name, {}), **options})


def close(got, want, tolerance=1e-5):
    for left, right in zip(got, want, strict=True):
        torch.testing.assert_close(left, right, rtol=tolerance, atol=tolerance)


def state(module):
    hooks = [
        len(hooks)
        for m in module.modules()
        for hooks in (m._forward_hooks, m._forward_pre_hooks, m._backward_hooks, m._backward_pre_hooks)
    ]
    return (
        hooks,
        [m.training for m in module.modules()],
        [(p.requires_grad, p.grad is None) for p in module.parameters()],
        [sorted(vars(m)) for m in module.modules()],
        [t.clone() for t in module.state_dict().values()],
    )


def same_state(before, after):
    return before[:4] == after[:4] and all(
        torch.equal(x, y) for x, y in zip(before[4], after[4], strict=True)
    )


class Before(nn.Module):
    """The small network, and what is done with images before it."""

    def __init__(self, change):
        super().__init__()
        self.net = small_net()
        self.change = change

    def forward(self, x):
        return self.net(self.change(x))


@every_method
def test_shapes_dtype_device_and_no_gradients(method, pair, images):
    for dtype in (torch.float32, torch.float64):
        inputs = tuple(image.to(dtype) for image in images)
        for attr, image in zip(attribute(method, pair.to(dtype), inputs), inputs, strict=True):
            assert attr.shape == image.shape
            assert attr.dtype == dtype
            assert attr.device == image.device
            assert not attr.requires_grad
            assert torch.isfinite(attr).all()
            assert attr.abs().sum() > 0


@every_method
def test_one_image_against_many_where_memory_holds_three(method, images):
    """Half as many go in one pass, of partners too, and the maps are the same."""

    def at_most_three(x):
        if len(x) > 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: 3 is all there is")
        return x

    inputs = images[0][:1], torch.cat([images[1], images[0].flip(-1), images[1].flip(-1)])
    got = attribute(method, PairSimilarity(Before(at_most_three), threshold=0.2), inputs)
    close(got, attribute(method, PairSimilarity(small_net(), threshold=0.2), inputs), 1e-4)


@batched_method
def test_no_pass_has_more_images_than_the_caller_allows(method, images):
    seen = []

    def noted(x):
        seen.append(len(x))
        return x

    options = dict.fromkeys(BATCH_SIZES & method.options().keys(), 2)
    inputs = images[0][:1], torch.cat([images[1], images[0].flip(-1), images[1].flip(-1)])
    pair = PairSimilarity(Before(noted), threshold=0.2)
    attribute(method, pair, inputs, **options)
    attribute_gallery(method.build(pair), *inputs, **FAST.get(method.name, {}) | options)
    assert max(seen) <= 2


@batched_method
@pytest.mark.parametrize("value", [0, -1, True, "all"])
def test_what_no_batch_size_is(method, pair, images, value):
    for name in BATCH_SIZES & method.options().keys():
        with pytest.raises((TypeError, ValueError), match=name):
            attribute(method, pair, images, **{name: value})


@every_method
@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
def test_every_precision(method, images, precision):
    pair = PairSimilarity(small_net().eval(), preprocess="arcface", threshold=0.2, precision=precision)
    before = state(pair), torch.get_rng_state(), torch.backends.cudnn.allow_tf32
    maps, again = (attribute(method, pair, images) for _ in range(2))
    assert same_state(before[0], state(pair))
    assert torch.equal(before[1], torch.get_rng_state())
    assert before[2] == torch.backends.cudnn.allow_tf32
    exact = attribute(method, PairSimilarity(small_net().eval(), preprocess="arcface", threshold=0.2), images)
    for got, same, want, image in zip(maps, again, exact, images, strict=True):
        assert got.shape == image.shape
        assert got.dtype == torch.float32
        assert not got.requires_grad
        assert torch.isfinite(got).all()
        assert torch.equal(got, same)
        if precision == "tf32":  # which only CUDA devices have
            assert torch.equal(got, want)
        else:
            pearson = torch.corrcoef(torch.stack([got.flatten(), want.flatten()]))[0, 1]
            assert pearson > 0.9
    items = [attribute(method, pair, tuple(image[i : i + 1] for image in images)) for i in range(3)]
    scale = max(float(side.abs().max()) for side in maps)
    tolerance = 0.1 * scale if precision == "bfloat16" else 1e-5
    for got, parts in zip(maps, zip(*items, strict=True), strict=True):
        torch.testing.assert_close(got, torch.cat(parts), rtol=0, atol=tolerance)


@every_method
def test_a_batch_equals_its_items(method, pair, images):
    together = attribute(method, pair, images)
    items = [attribute(method, pair, tuple(image[i : i + 1] for image in images)) for i in range(3)]
    close(together, [torch.cat(side) for side in zip(*items, strict=True)])


@every_method
@pytest.mark.parametrize("single", [0, 1])
def test_one_side_of_batch_one_stands_against_all(method, pair, images, single):
    inputs = tuple(image[:1] if side == single else image for side, image in enumerate(images))
    expanded = tuple(image.expand(3, -1, -1, -1) for image in inputs)
    close(attribute(method, pair, inputs), attribute(method, pair, expanded))


@every_method
def test_a_batch_in_the_mode_of_the_model_leaves_it_as_it_was(method, images):
    """A model in training mode with gradients is explained as in eval mode, and comes back untouched."""
    net = small_net()
    net.fc.bias.requires_grad_(False)
    net.prelu.eval()
    net.conv1.register_forward_hook(lambda *_: None)
    pair = PairSimilarity(net, preprocess="arcface")
    before = state(pair)
    got = attribute(method, pair, images)
    assert same_state(before, state(pair))
    close(got, attribute(method, PairSimilarity(small_net().eval(), preprocess="arcface"), images))


@looking_method
@pytest.mark.parametrize("failing_call", [1, 2, 3, 4])
def test_a_forward_that_fails_midway_leaves_the_model_as_it_was(method, images, failing_call):
    class Failing(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = small_net()
            self.calls = [0]  # a list: the module's own attributes stay the same

        def forward(self, x):
            self.calls[0] += 1
            if self.calls[0] >= failing_call:  # from then on: a faster twin of the model may fail first
                raise RuntimeError("midway")
            return self.net(x)

    pair = PairSimilarity(Failing())
    before = state(pair)
    if method.needs == "embeddings" and failing_call > 2:
        pytest.skip("needs each side's embeddings alone, in two calls")
    with pytest.raises(RuntimeError, match="midway"):
        attribute(method, pair, images)
    assert same_state(before, state(pair))


@every_method
def test_inputs_are_not_changed(method, pair, images):
    before = [image.clone() for image in images]
    leaves = tuple(image.requires_grad_() for image in images)
    attribute(method, pair, leaves)
    for image, copy in zip(leaves, before, strict=True):
        assert torch.equal(image, copy)
        assert image.requires_grad
        assert image.grad is None


@every_method
def test_seeded_runs_are_identical(method, pair, images):
    state_before = torch.get_rng_state()
    first, second = (attribute(method, pair, images) for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(first, second, strict=True))
    assert torch.equal(torch.get_rng_state(), state_before)


@every_method
def test_deterministic_methods_need_no_seed(method):
    options = method.options()
    assert method.deterministic() == ("seed" not in options)


@pytest.mark.parametrize(
    "method", [m for m in METHODS.values() if not re.search("about", m.passes)], ids=lambda m: m.name
)
def test_passes_are_counted(method, images):
    """The registry's formula, at the method's options, against the images that pass the first layer."""
    net = small_net().eval()
    counted = {"forward": 0, "backward": 0}

    def count(name, images):
        counted[name] += len(images)

    def count_the_way_back(_, args, out):
        # At the last layer: all ways back begin there, and some end before the first.
        if out.requires_grad:
            out.register_hook(lambda gradient: count("backward", gradient))

    net.conv1.register_forward_pre_hook(lambda _, args: count("forward", args[0]))
    net.fc.register_forward_hook(count_the_way_back)
    pair = PairSimilarity(net)
    built = method.build(pair)
    options = {name: p.default for name, p in built.options().items()} | FAST.get(method.name, {})
    if "internal_batch_size" in options:
        options["internal_batch_size"] = 7
    inputs = tuple(image[:1] for image in images)
    built.attribute(inputs, **options)
    # Windows of 5 by steps of 4 on 18 x 14 pixels; regions where there is no face to find; 8 rendered
    # members of the cohort, of whom no more are drawn than can take turns.
    most = options.get("n_points", options.get("n_cohort", 0))
    values = {**options, "D": 7, "windows": 5 * 4, "regions": 7 * 7, "cohort": min(8, most)}
    expected = {"forward": 0, "backward": 0}
    for part in filter(lambda text: text != "none", method.passes.split(", ")):
        formula, name = part.rsplit(" ", 1)
        formula = re.sub(r"(?<=[\w)²]) (?=[\w(])", " * ", formula).replace("²", "**2")
        expected[name] = eval(formula, {}, values)
    assert counted == expected


@pytest.mark.parametrize(
    ("name", "forward"),
    [
        ("xface", 2500), ("minplus", 1030), ("rise", 2002), ("occlusion", 342), ("feature_ablation", 26),
        ("kernel_shap", 1006), ("integrated_gradients", 102), ("gradient_shap", 42), ("fame", 402),
    ],
)  # fmt: skip
def test_passes_at_the_defaults_on_a_crop_of_112(name, forward):
    """Whoever changes a default changes what a method costs, and what its page says."""
    seen = []

    def model(x):
        seen.append(len(x))
        return x.mean((2, 3))

    inputs = tuple(torch.rand(2, 1, 3, 112, 112, generator=torch.Generator().manual_seed(0)))
    METHODS[name].build(PairSimilarity(model, score="dot")).attribute(inputs)
    assert sum(seen) == forward


@every_method
def test_constructor_only_stores_its_arguments(method, pair):
    built = method.build(pair)
    parameters = inspect.signature(type(built)).parameters
    assert next(iter(parameters)) == "forward_func"
    stored = {name: parameter.default for name, parameter in parameters.items()}
    assert vars(built) == {**stored, "forward_func": pair}


@every_method
def test_progress_is_shown_when_asked(method, pair, images, capsys):
    attribute(method, pair, images)
    assert capsys.readouterr().err == ""
    attribute(method, pair, images, show_progress=True)
    assert "100%" in capsys.readouterr().err


@every_method
def test_black_boxes_where_no_gradients_are_needed(method, pair, images):
    def black_box(a, b):
        with torch.no_grad():
            return pair(a, b)

    if method.needs != "scores alone":
        with pytest.raises(TypeError, match="expected a PairSimilarity"):
            attribute(method, black_box, images)
    else:
        assert attribute(method, black_box, images)[0].shape == images[0].shape


@every_method
def test_bad_images_are_refused(method, pair, images):
    a, b = images
    for bad in (
        (a[:2], b), (a, b[..., 1:]), (a * 255, b), (a, b * float("nan")), (a[0], b), (a,), a,
        ((255 * a).byte(), b),
    ):  # fmt: skip
        with pytest.raises((ValueError, TypeError), match="expected"):
            attribute(method, pair, bad)


@every_method
def test_single_channel_images(method, images):
    pair = PairSimilarity(small_net(channels=1).eval())
    grey = tuple(image[:, :1] for image in images)
    assert attribute(method, pair, grey)[0].shape == grey[0].shape


@every_method
def test_captums_noise_tunnel(method, pair, images):
    tunnel = NoiseTunnel(method.build(pair))
    torch.manual_seed(0)
    options = FAST.get(method.name, {})
    attr = tunnel.attribute(images, nt_samples=2, stdevs=0.05, **options)
    torch.manual_seed(0)
    noisy = tunnel._add_noise_to_inputs(2, images, 0.05)
    expected = attribute(method, pair, noisy)
    for got, want, image in zip(attr, expected, images, strict=True):
        assert got.shape == image.shape
        torch.testing.assert_close(got, want.reshape(3, 2, *want.shape[1:]).mean(1), rtol=1e-4, atol=1e-6)


@every_method
def test_captums_metrics(method, pair, images):
    attributions = attribute(method, pair, images)

    def perturb(inputs):
        noise = tuple(0.03 * torch.randn_like(image) for image in inputs)
        return noise, tuple(image - n for image, n in zip(inputs, noise, strict=True))

    values = infidelity(pair, perturb, images, attributions, n_perturb_samples=4)
    assert values.shape == (3,)
    assert torch.isfinite(values).all()
    explanation = method.build(pair)
    values = sensitivity_max(explanation.attribute, images, n_perturb_samples=2, **FAST.get(method.name, {}))
    assert values.shape == (3,)
    assert ((values > 0) == (method.family != "null baseline")).all()


@every_method
def test_captums_visualization(method, pair, images):
    attr, _ = attribute(method, pair, images)
    figure, _ = visualization.visualize_image_attr(
        attr[0].permute(1, 2, 0).numpy(),
        images[0][0].permute(1, 2, 0).numpy(),
        method="blended_heat_map",
        sign="all",
        use_pyplot=False,
    )
    assert figure.axes
    similar, dissimilar = split_attribution(attr)
    torch.testing.assert_close(similar - dissimilar, attr.mean(1))


@every_method
def test_no_warnings(method, pair, images):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attribute(method, pair, images)


@every_method
def test_models_and_preprocessing_that_work_in_place(method, images):
    """They must change neither the caller's images nor the explanation."""

    def change(x):
        return x.sub_(0.5).div_(0.5)

    before = [image.clone() for image in images]
    expected = attribute(method, PairSimilarity(small_net(), preprocess="arcface"), images)
    close(attribute(method, PairSimilarity(Before(change)), images), expected)
    in_place = PairSimilarity(small_net(), preprocess=change)
    close(attribute(method, in_place, images), expected)
    assert all(torch.equal(image, copy) for image, copy in zip(images, before, strict=True))


@every_method
def test_a_bound_method_is_frozen_too(method, images):
    net = small_net()
    before = state(net)
    attribute(method, PairSimilarity(net.forward, preprocess="arcface"), images)
    assert same_state(before, state(net))
