"""What every registered method keeps to, whatever it computes: the checks that anybody can run on a class."""

from __future__ import annotations

import re

import pytest
import torch

from captum_face import METHODS, PairSimilarity
from captum_face.testing import method_checks, model_state
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

every_method = pytest.mark.parametrize("method", METHODS.values(), ids=list(METHODS))


def state(module):
    return model_state(module)


def same_state(before, after):
    return before[:4] == after[:4] and all(
        torch.equal(x, y) for x, y in zip(before[4], after[4], strict=True)
    )


@pytest.mark.parametrize(
    "check",
    [check for name, method in METHODS.items() for check in method_checks(method, FAST.get(name))],
    ids=str,
)
def test_contract(check):
    check()


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
        ("xface", 2500), ("minplus", 1030), ("rise", 2002), ("occlusion", 342), ("feature_ablation", 32),
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
