from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from captum_face.models import MODELS, MobileFaceNet, mobilefacenet
from captum_face.models.onnx import onnx_parity
from captum_face.pair.preprocessing import PRESETS, resolve_preprocess

GROUPS = [(64, 5, 2), (128, 1, 2), (128, 6, 1), (128, 1, 2), (128, 2, 1)]
STRIDES = [first if i == 0 else 1 for _, n, first in GROUPS for i in range(n)]
WIDTHS = [width for width, n, _ in GROUPS for _ in range(n)]


def randomised(model, seed=0):
    """Weights that keep the images' differences alive, so that a swapped layer shows."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight, generator=generator)
        if isinstance(module, torch.nn.PReLU):
            torch.nn.init.uniform_(module.weight, -0.5, 0.5, generator=generator)
        if isinstance(module, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            torch.nn.init.normal_(module.bias, 0, 0.2, generator=generator)
    return model


def reference(state, x):
    """The network from its description alone: functions and the names of the state dict."""

    def bn(x, name):
        mean, var, gain, bias = (
            state[f"{name}.{part}"][:, None, None]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * gain + bias

    def conv(x, name, groups=1, stride=1):
        weight = state[f"{name}.weight"]
        pad = weight.shape[-1] // 2 if weight.shape[-1] == 3 else 0
        return F.conv2d(x, weight, state.get(f"{name}.bias"), stride, pad, groups=groups)

    def activate(x, name, highest=6.0):
        if f"{name}.weight" in state:
            return x.clamp(min=0) + state[f"{name}.weight"][:, None, None] * x.clamp(max=0)
        return x.clamp(0, highest)

    x = activate(bn(conv(x, "conv1.0", stride=2), "conv1.1"), "conv1.2")
    x = bn(conv(x, "dw_conv.depthwise", groups=64), "dw_conv.bn1")
    x = activate(x, "dw_conv.act1", float("inf"))
    x = activate(bn(conv(x, "dw_conv.pointwise"), "dw_conv.bn2"), "dw_conv.act2", float("inf"))
    for i, (width, stride) in enumerate(zip(WIDTHS, STRIDES, strict=True)):
        name = f"features.{i}.conv"
        y = activate(bn(conv(x, f"{name}.0.0"), f"{name}.0.1"), f"{name}.0.2")
        y = bn(conv(y, f"{name}.1.0", groups=y.shape[1], stride=stride), f"{name}.1.1")
        y = activate(y, f"{name}.1.2")
        y = bn(conv(y, f"{name}.2"), f"{name}.3")
        x = x + y if stride == 1 and x.shape[1] == width else y
    x = activate(bn(conv(x, "conv2.0"), "conv2.1"), "conv2.2")
    x = bn(conv(x, "gdconv.depthwise", groups=512), "gdconv.bn")
    return bn(conv(x, "conv3"), "bn").flatten(1)


def published_names():
    def bn(name):
        parts = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        return [f"{name}.{part}" for part in parts]

    def block(i):
        conv = f"features.{i}.conv"
        names = [f"{conv}.0.0.weight", *bn(f"{conv}.0.1"), f"{conv}.1.0.weight", *bn(f"{conv}.1.1")]
        return [*names, f"{conv}.2.weight", *bn(f"{conv}.3")]

    return [
        "conv1.0.weight",
        *bn("conv1.1"),
        "dw_conv.depthwise.weight",
        "dw_conv.pointwise.weight",
        *bn("dw_conv.bn1"),
        *bn("dw_conv.bn2"),
        "conv2.0.weight",
        *bn("conv2.1"),
        "gdconv.depthwise.weight",
        *bn("gdconv.bn"),
        "conv3.weight",
        "conv3.bias",
        *bn("bn"),
        *(name for i in range(15) for name in block(i)),
    ]


def test_state_dict_has_the_published_names_in_the_published_order():
    assert list(mobilefacenet().state_dict()) == published_names()


@pytest.mark.parametrize("activation", ["relu", "prelu"])
def test_equals_the_described_layers(activation):
    model = randomised(mobilefacenet(activation=activation))
    slopes = [name for name, value in model.named_parameters() if name not in published_names()]
    assert len(slopes) == (0 if activation == "relu" else 1 + 2 + 2 * 15 + 1)
    images = torch.rand(2, 3, 112, 112, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = reference(model.state_dict(), images)
        scale = expected.abs().max()
        assert expected.std(0).mean() > 0.01 * scale  # else the comparison would say little
        torch.testing.assert_close(model(images) / scale, expected / scale, atol=1e-4, rtol=0)


def test_factory_answers_in_eval_mode_and_batches_equal_single_images():
    model = randomised(mobilefacenet())
    images = torch.rand(3, 3, 112, 112, generator=torch.Generator().manual_seed(3))
    assert not model.training
    with torch.no_grad():
        torch.testing.assert_close(model(images), torch.cat([model(x) for x in images.split(1)]))


def test_bad_input():
    with pytest.raises(ValueError, match=r"unknown activation 'prelu6'.*did you mean 'prelu'"):
        mobilefacenet(activation="prelu6")
    # twice the size would otherwise answer with a longer embedding, without an error
    with pytest.raises(ValueError, match=r"\(N, 3, 112, 112\), got \(1, 3, 224, 224\)"):
        MobileFaceNet()(torch.rand(1, 3, 224, 224))


def test_models_by_name():
    assert set(MODELS) >= {"mobilefacenet", "iresnet18", "iresnet34", "iresnet50", "iresnet100"}
    assert {entry.preprocess for entry in MODELS.values()} <= set(PRESETS)
    assert isinstance(MODELS["mobilefacenet"].build(None), MobileFaceNet)
    assert MODELS["mobilefacenet"].threshold is None
    assert [name for name, entry in MODELS.items() if entry.ships_weights] == ["synthetic", "dlib"]


def faces(files):
    """Crops, normalised as the published weights expect."""
    pixels = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])
    return resolve_preprocess("imagenet")(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255)


@pytest.mark.real
def test_published_weights_load_by_their_own_names(shared):
    path = shared / "models" / "mobilefacenet.pt"
    state = torch.load(path, map_location="cpu", weights_only=True)
    model = MobileFaceNet()
    assert list(model.state_dict()) == list(state)
    model.load_state_dict(state, strict=True)


@pytest.mark.real
def test_equals_the_onnx_file_on_real_faces(shared):
    model = mobilefacenet(shared / "models" / "mobilefacenet.pt")
    images = faces(sorted((shared / "data" / "lfw_crops").glob("*.png"))[:8])
    assert onnx_parity(model, shared / "models" / "mobilefacenet.onnx", images) < 1e-5
    # the same check must notice the trap: BatchNorms paired by registration order
    model.dw_conv.bn1, model.dw_conv.bn2 = model.dw_conv.bn2, model.dw_conv.bn1
    assert onnx_parity(model, shared / "models" / "mobilefacenet.onnx", images) > 0.1


@pytest.mark.real
def test_tells_real_people_apart(shared):
    data = shared / "data"
    with (data / "pairs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))[::8]
    files = sorted({row[side] for row in rows for side in ("image_a", "image_b")})
    model = mobilefacenet(shared / "models" / "mobilefacenet.pt")
    with torch.no_grad():
        embeddings = dict(
            zip(files, F.normalize(model(faces(data / "lfw_crops" / f for f in files))), strict=True)
        )
    scores = torch.stack([embeddings[r["image_a"]] @ embeddings[r["image_b"]] for r in rows])
    same = torch.tensor([r["same"] == "1" for r in rows])
    assert same.any()
    assert not same.all()
    assert scores[same].mean() > scores[~same].mean() + 0.15
