from __future__ import annotations

import importlib
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from captum_face.models import IResNet, load_onnx, mobilefacenet
from captum_face.models.onnx import OnnxEmbedding, onnx_parity
from captum_face.pair.preprocessing import resolve_preprocess

onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
pytest.importorskip("onnx2torch", reason="needs the extra onnx")
pytest.importorskip("onnxruntime", reason="needs the extra onnx")

SIZE = 12


class Network(nn.Module):
    """A small network with a BatchNorm and a choice of how it flattens."""

    def __init__(self, flatten="any"):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3, stride=2)
        self.bn = nn.BatchNorm2d(4)
        self.bn.running_mean.normal_()
        self.bn.running_var.uniform_(0.5, 2)
        self.prelu = nn.PReLU(4)
        self.linear = nn.Linear(100, 6)
        self.flatten = flatten

    def forward(self, x):
        x = self.prelu(self.bn(self.conv(x)))
        if self.flatten == "late":  # (1, -1) at the very end, as in real exports
            return self.linear(x.flatten(1)).view(1, -1)
        if self.flatten == "centred":  # right shape, but the batch mixes: only the values tell
            x = self.linear(x.flatten(1))
            return x - 0.5 * x.mean(0, keepdim=True)
        if self.flatten == "eight":  # (8, -1): no single image can pass
            return self.linear(x.flatten(1)).view(8, -1)
        if self.flatten == "two outputs":
            x = self.linear(x.flatten(1))
            return x / x.norm(dim=1, keepdim=True), x.norm(dim=1, keepdim=True)
        return self.linear(x.flatten(1))


def export(model, path, *, batch=1, dynamic=True, size=SIZE, open_size=False, outputs=("emb",), **options):
    axes = {"x": {0: "n", **({2: "h", 3: "w"} if open_size else {})}} if dynamic else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # remarks on the exporter, constant shapes
        torch.onnx.export(
            model.eval(),
            torch.rand(batch, 3, size, size),
            str(path),
            dynamo=False,
            input_names=["x"],
            output_names=list(outputs),
            dynamic_axes=axes,
            **options,
        )
    return path


def images(n, size=SIZE, seed=1):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("flatten", "dynamic", "fixed"),
    [
        ("any", True, False),
        ("any", False, True),  # declared
        ("late", False, True),  # declared, and true
        ("late", True, True),  # found out by its shape
        ("centred", True, True),  # found out by its values
    ],
)
def test_any_batch_gives_what_single_images_give(tmp_path, flatten, dynamic, fixed):
    network = Network(flatten)
    model = load_onnx(export(network, tmp_path / "net.onnx", dynamic=dynamic))
    assert model.fixed_batch == fixed
    assert model.input_size == (SIZE, SIZE)
    assert model.embedding_size == 6
    with torch.no_grad():
        expected = torch.cat([network(image) for image in images(5).split(1)])
    torch.testing.assert_close(model(images(5)), expected, atol=1e-5, rtol=1e-4)


def test_images_of_a_dynamic_graph_run_together(tmp_path):
    model = load_onnx(export(Network(), tmp_path / "net.onnx"))
    batches = []
    model.graph.register_forward_pre_hook(lambda _, args: batches.append(len(args[0])))
    model(images(5))
    assert batches == [5]


@pytest.mark.parametrize("dynamic", [True, False])
def test_gradients_reach_every_image(tmp_path, dynamic):
    network = Network("late" if not dynamic else "any")
    model = load_onnx(export(network, tmp_path / "net.onnx", dynamic=dynamic))
    weights = torch.randn(3, 6, generator=torch.Generator().manual_seed(4))
    ours, theirs = images(3).requires_grad_(), images(3).requires_grad_()
    (model(ours) * weights).sum().backward()
    (torch.cat([network(x) for x in theirs.split(1)]) * weights).sum().backward()
    assert (ours.grad.flatten(1).abs().amax(1) > 0).all()
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-5, rtol=1e-4)


def test_the_graph_stays_an_inference_graph(tmp_path):
    model = load_onnx(export(Network(), tmp_path / "net.onnx"))
    before = model(images(3))
    assert not model.training
    assert model.train().training
    torch.testing.assert_close(model(images(3)), before)  # no BatchNorm wakes up
    assert not any(p.requires_grad for p in model.parameters())


def test_another_fixed_batch_runs_singly_where_the_graph_allows_it(tmp_path):
    network = Network()
    model = load_onnx(export(network, tmp_path / "net.onnx", batch=8, dynamic=False))
    assert model.fixed_batch
    torch.testing.assert_close(model(images(3)), network(images(3)), atol=1e-5, rtol=1e-4)


def test_another_fixed_batch_is_refused_where_it_does_not(tmp_path):
    path = export(Network("eight"), tmp_path / "net.onnx", batch=8, dynamic=False)
    with pytest.raises(ValueError, match=r"cannot run one image.*batch of 8 is fixed in it"):
        load_onnx(path)


@pytest.mark.parametrize("opset", [13, 17, 20])
def test_opsets_and_shared_weights(tmp_path, opset):
    torch.manual_seed(0)
    network = IResNet([1, 1, 1, 1], embedding_size=16).eval()  # untrained: many weights are equal
    path = export(network, tmp_path / "net.onnx", size=112, opset_version=opset)
    assert "Identity" in {node.op_type for node in onnx.load(str(path)).graph.node}
    assert onnx_parity(load_onnx(path), path, images(3, 112)) < 1e-5


def test_open_image_sizes(tmp_path):
    pooled = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = load_onnx(export(pooled, tmp_path / "pooled.onnx", open_size=True))
    assert model.input_size is None
    assert model(images(2, 20)).shape == (2, 4)

    export(Network(), tmp_path / "net.onnx", open_size=True)
    with pytest.raises(ValueError, match=r"open.*input_size="):
        load_onnx(tmp_path / "net.onnx")
    assert load_onnx(tmp_path / "net.onnx", input_size=(SIZE, SIZE)).input_size == (SIZE, SIZE)
    export(Network(), tmp_path / "net.onnx")
    with pytest.raises(ValueError, match=r"size \(12, 12\), got input_size=\(9, 9\)"):
        load_onnx(tmp_path / "net.onnx", input_size=(9, 9))


def test_several_outputs(tmp_path):
    network = Network("two outputs")
    path = export(network, tmp_path / "net.onnx", outputs=("feature", "norm"))
    with pytest.raises(ValueError, match=r"got several: choose by output=.*'feature'.*'norm'"):
        load_onnx(path)
    with pytest.raises(ValueError, match=r"got no 'feat'"):
        load_onnx(path, output="feat")
    model = load_onnx(path, output="feature")
    torch.testing.assert_close(model(images(3)), network(images(3))[0], atol=1e-5, rtol=1e-4)
    assert load_onnx(path, output="norm").embedding_size == 1


def test_a_graph_that_converts_wrongly_is_refused(tmp_path, monkeypatch):
    path = export(Network(), tmp_path / "net.onnx")
    other = Network()
    other.linear.weight.data[0, 0] += 1.0
    monkeypatch.setattr("captum_face.models.onnx._convert", lambda *_: other.eval())
    with pytest.raises(ValueError, match=r"differs from onnxruntime by .*CorrRISE"):
        load_onnx(path)
    load_onnx(path, check=False)


def test_parity_is_relative_and_sees_shapes(tmp_path):
    network = Network()
    path = export(network, tmp_path / "net.onnx")
    assert onnx_parity(network, path, images(3)) < 1e-5
    assert onnx_parity(lambda x: 1.01 * network(x), path, images(3)) == pytest.approx(0.01, rel=0.01)
    assert onnx_parity(lambda x: network(x).view(1, -1), path, images(3)) == float("inf")


def test_images_of_another_shape(tmp_path):
    model = load_onnx(export(Network("late"), tmp_path / "net.onnx"))
    for bad in (images(2, 14), images(2)[0], images(2)[:, :1]):
        with pytest.raises(ValueError, match=r"\(N, 3, 12, 12\), got"):
            model(bad)


def graph(nodes, shape, path, output=(None, 6), elem_type=1):
    from onnx import helper

    values = [
        helper.make_tensor_value_info("x", elem_type, shape),
        helper.make_tensor_value_info("emb", 1, output),
    ]
    made = helper.make_model(
        helper.make_graph(nodes, "g", values[:1], values[1:]),
        opset_imports=[helper.make_opsetid("", 13)],
        ir_version=8,
    )
    onnx.save(made, str(path))
    return path


def test_inputs_that_are_no_images(tmp_path):
    from onnx import helper

    node = [helper.make_node("Flatten", ["x"], ["emb"])]
    for shape in ((None, 12, 12, 3), (None, 100)):
        with pytest.raises(ValueError, match=r"one floating-point image input \(N, 3, H, W\).*got: x \["):
            load_onnx(graph(node, shape, tmp_path / "net.onnx"))
    with pytest.raises(ValueError, match="not all floating point"):
        load_onnx(graph(node, (None, 3, 12, 12), tmp_path / "net.onnx", elem_type=2))


def test_an_output_that_is_no_embedding(tmp_path):
    path = export(nn.Conv2d(3, 4, 3), tmp_path / "net.onnx")
    with pytest.raises(ValueError, match=r"shape \(2, D\) from output 'emb'.*got \(2, 4, 10, 10\)"):
        load_onnx(path)


def test_an_operator_that_cannot_be_converted_is_named(tmp_path):
    from onnx import helper

    nodes = [helper.make_node("Det", ["x"], ["d"]), helper.make_node("Flatten", ["d"], ["emb"])]
    path = graph(nodes, (None, 3, 12, 12), tmp_path / "net.onnx", output=(None, 3))
    with pytest.raises(ValueError, match=r"know its operator Det \(version \d+\).*CorrRISE"):
        load_onnx(path)


def test_files_that_are_no_networks(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected an ONNX file at .*found nothing"):
        load_onnx(tmp_path / "net.onnx")
    with pytest.raises(FileNotFoundError, match="found a folder"):
        load_onnx(tmp_path)
    (tmp_path / "net.onnx").write_bytes(b"<!DOCTYPE html>")
    with pytest.raises(ValueError, match=r"as an ONNX file.*load_weights"):
        load_onnx(tmp_path / "net.onnx")
    (tmp_path / "net.onnx").write_bytes(b"")
    with pytest.raises(ValueError, match="without any operator"):
        load_onnx(tmp_path / "net.onnx")


@pytest.mark.parametrize("missing", ["onnx", "onnx2torch", "onnxruntime"])
def test_a_missing_package_names_the_extra(tmp_path, monkeypatch, missing):
    path = export(Network(), tmp_path / "net.onnx")
    real = importlib.import_module

    def import_module(name):
        if name == missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name)

    monkeypatch.setattr(importlib, "import_module", import_module)
    with pytest.raises(ImportError, match=rf"package {missing}\b.*captum-face\[onnx\]"):
        load_onnx(path)


def test_a_torchvision_of_another_build_is_explained(tmp_path, monkeypatch):
    path = export(Network(), tmp_path / "net.onnx")
    real = importlib.import_module

    def import_module(name):
        if name == "torchvision":
            raise RuntimeError("operator torchvision::nms does not exist")
        return real(name)

    monkeypatch.setattr(importlib, "import_module", import_module)
    with pytest.raises(ImportError, match=r"torchvision::nms.*does not match torch.*together"):
        load_onnx(path)


@pytest.mark.real
def test_the_real_file_equals_onnxruntime_and_the_real_weights(shared):
    path = shared / "models" / "mobilefacenet.onnx"
    crops = sorted((shared / "data" / "lfw_crops").glob("*.png"))[:4]
    pixels = np.stack([np.asarray(Image.open(crop).convert("RGB")) for crop in crops])
    faces = resolve_preprocess("imagenet")(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255)
    model = load_onnx(path)
    assert isinstance(model, OnnxEmbedding)
    assert (model.fixed_batch, model.input_size, model.embedding_size) == (True, (112, 112), 128)
    assert model(faces).shape == (4, 128)  # the bare graph answers (1, 512)
    assert onnx_parity(model, path, faces) < 1e-5
    ours = mobilefacenet(shared / "models" / "mobilefacenet.pt")
    np.testing.assert_allclose(model(faces).numpy(), ours(faces).detach().numpy(), atol=1e-4)
