from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from captum_face.models import IResNet, iresnet18, iresnet34, iresnet50, iresnet100
from captum_face.models.iresnet import Add

# blocks per stage and millions of parameters, as InsightFace publishes them
PUBLISHED = {
    iresnet18: ([2, 2, 2, 2], 24.03),
    iresnet34: ([3, 4, 6, 3], 34.14),
    iresnet50: ([3, 4, 14, 3], 43.59),
    iresnet100: ([3, 13, 30, 3], 65.16),
}


def published_shapes(layers, embedding_size=512):
    """Names and shapes of a published ``backbone.pth``, written down from its naming."""
    shapes = {}

    def bn(name, channels):
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{part}"] = (channels,)
        shapes[f"{name}.num_batches_tracked"] = ()

    shapes["conv1.weight"] = (64, 3, 3, 3)
    bn("bn1", 64)
    shapes["prelu.weight"] = (64,)
    before = 64
    for stage, (blocks, width) in enumerate(zip(layers, (64, 128, 256, 512), strict=True), 1):
        for index in range(blocks):
            block = f"layer{stage}.{index}"
            bn(f"{block}.bn1", before)
            shapes[f"{block}.conv1.weight"] = (width, before, 3, 3)
            bn(f"{block}.bn2", width)
            shapes[f"{block}.prelu.weight"] = (width,)
            shapes[f"{block}.conv2.weight"] = (width, width, 3, 3)
            bn(f"{block}.bn3", width)
            if index == 0:
                shapes[f"{block}.downsample.0.weight"] = (width, before, 1, 1)
                bn(f"{block}.downsample.1", width)
            before = width
    bn("bn2", 512)
    shapes["fc.weight"] = (embedding_size, 512 * 7 * 7)
    shapes["fc.bias"] = (embedding_size,)
    bn("features", embedding_size)
    return shapes


def random_state(shapes, seed=0):
    """Weights of sane size; variances near the eps of BatchNorm, so that another eps shows."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
        elif name.endswith("running_var"):
            state[name] = 1e-4 + 1e-4 * torch.rand(shape, generator=generator)
        elif len(shape) > 1:
            fan_in = torch.Size(shape[1:]).numel()
            state[name] = 0.01 * torch.randn(shape, generator=generator) / fan_in**0.5
        else:
            state[name] = 0.1 * torch.randn(shape, generator=generator) + 0.25
    state["features.weight"] = torch.ones(shapes["features.weight"])
    return state


def reference(state, layers, x):
    """The network from its description alone: functions and the names of the state dict."""

    def bn(x, name):
        parts = ("running_mean", "running_var", "weight", "bias")
        mean, var, gain, bias = (state[f"{name}.{part}"].reshape(-1, *[1] * (x.ndim - 2)) for part in parts)
        return (x - mean) / (var + 1e-5).sqrt() * gain + bias

    def conv(x, name, stride=1):
        weight = state[f"{name}.weight"]
        return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)

    def prelu(x, name):
        return x.clamp(min=0) + state[f"{name}.weight"][:, None, None] * x.clamp(max=0)

    x = prelu(bn(conv(x, "conv1"), "bn1"), "prelu")
    for stage, blocks in enumerate(layers, 1):
        for index in range(blocks):
            name, stride = f"layer{stage}.{index}", 2 if index == 0 else 1
            y = bn(conv(bn(x, f"{name}.bn1"), f"{name}.conv1"), f"{name}.bn2")
            y = bn(conv(prelu(y, f"{name}.prelu"), f"{name}.conv2", stride), f"{name}.bn3")
            if index == 0:
                x = bn(conv(x, f"{name}.downsample.0", stride), f"{name}.downsample.1")
            x = x + y
    x = bn(x, "bn2").flatten(1)
    return bn(x @ state["fc.weight"].T + state["fc.bias"], "features")


@pytest.mark.parametrize("build", PUBLISHED, ids=lambda build: build.__name__)
def test_names_shapes_and_size_are_the_published_ones(build):
    layers, millions = PUBLISHED[build]
    model = build()
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    expected = published_shapes(layers)
    assert list(shapes) == list(expected)
    assert shapes == expected
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.006)
    assert not model.training


def test_a_published_backbone_loads_and_computes_as_described(tmp_path):
    layers = [2, 2, 2, 2]
    state = random_state(published_shapes(layers, 64))
    torch.save(state, tmp_path / "backbone.pth")
    model = iresnet18(tmp_path / "backbone.pth", embedding_size=64).double()
    image = torch.rand(2, 3, 112, 112, generator=torch.Generator().manual_seed(1)).double()
    state = {name: value.double() for name, value in state.items()}
    with torch.no_grad():
        expected = reference(state, layers, 2 * image - 1)
        assert expected.std(0).mean() > 0.01  # else the comparison would say little
        torch.testing.assert_close(model(2 * image - 1), expected)


def test_the_deepest_network_runs():
    with torch.no_grad():
        embedding = iresnet100()(torch.zeros(1, 3, 112, 112))
    assert embedding.shape == (1, 512)
    assert embedding.isfinite().all()


def test_every_residual_sum_is_a_module_of_its_own():
    model = IResNet([1, 2, 1, 1])
    assert sum(isinstance(module, Add) for module in model.modules()) == 5
    inputs = []
    model.layer2[1].add.register_forward_hook(lambda _, args, out: inputs.append((args, out)))
    model.eval()(torch.rand(1, 3, 112, 112))
    ((main, shortcut), out), *others = inputs
    assert not others
    torch.testing.assert_close(out, main + shortcut)


def test_the_scale_of_the_last_batchnorm_is_fixed():
    model = IResNet([1, 1, 1, 1])
    assert not model.features.weight.requires_grad
    assert model.features.bias.requires_grad
    assert torch.equal(model.features.weight, torch.ones(512))


def test_bad_input(tmp_path):
    with pytest.raises(ValueError, match=r"\(N, 3, 112, 112\), got \(1, 3, 160, 160\)"):
        iresnet18()(torch.rand(1, 3, 160, 160))
    with pytest.raises(ValueError, match="four positive numbers of blocks"):
        IResNet([2, 2, 2])
    torch.save(IResNet([1, 1, 1, 1]).state_dict(), tmp_path / "small.pth")
    with pytest.raises(ValueError, match=r"do not fit IResNet: \d+ of \d+ missing \(layer1\.1"):
        iresnet18(tmp_path / "small.pth")
