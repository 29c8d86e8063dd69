"""ONNX files as exporters write them: exporter x opset x form of the output, repairs, refusals."""

from __future__ import annotations

import importlib.util
import logging
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from captum_face.models import load_onnx
from captum_face.models.onnx import onnx_parity

onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
pytest.importorskip("onnx2torch", reason="needs the extra onnx")
pytest.importorskip("onnxruntime", reason="needs the extra onnx")
from onnx import helper, numpy_helper  # noqa: E402

SIZE = 16
needs_dynamo = pytest.mark.skipif(
    importlib.util.find_spec("onnxscript") is None, reason="PyTorch's default ONNX exporter needs onnxscript"
)


class Face(nn.Module):
    """Convolution, BatchNorm, PReLU, pooling, dropout, linear, BatchNorm; and a form of output."""

    def __init__(self, form="rows"):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3, 2, 1)
        self.bn = nn.BatchNorm2d(4)
        self.prelu = nn.PReLU(4)
        self.prelu.weight.data = torch.tensor([0.1, 0.2, 0.3, 0.4])
        self.pool = nn.AvgPool2d(2)
        self.dropout = nn.Dropout(0.4)
        self.linear = nn.Linear(64, 6)
        self.last = nn.BatchNorm1d(6)
        for bn in (self.bn, self.last):
            bn.running_mean.normal_()
            bn.running_var.uniform_(0.5, 2)
        self.form = form

    def forward(self, x):
        x = self.pool(self.prelu(self.bn(self.conv(x))))
        x = self.last(self.linear(self.dropout(torch.flatten(x, 1))))
        if self.form == "normalised":
            return F.normalize(x)
        if self.form == "norm":
            return x / x.norm(dim=1, keepdim=True)
        if self.form == "sum of squares":
            return x / x.pow(2).sum(1, keepdim=True).sqrt()
        if self.form == "places":
            return x[:, :, None, None]
        if self.form == "vector":
            return x.reshape(-1)
        return x


class Attention(nn.Module):
    """A patch embedding and one block as in ViT and Swin: LayerNorm, attention, Gelu."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.first, self.second = nn.LayerNorm(8), nn.LayerNorm(8)
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
        self.head = nn.Linear(8, 6)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        n, tokens, _ = x.shape
        x = x.roll(1, 1)  # the shifted windows of Swin
        q, k, v = self.qkv(self.first(x)).reshape(n, tokens, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(q, k, v)
        x = x + self.out(attended.transpose(1, 2).reshape(n, tokens, 8))
        x = x + self.mlp(self.second(x))
        return self.head(x.mean(1))


def images(n=3):
    return torch.rand(n, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def export(model, path, *, dynamo=False, opset=None, dynamic=True, dtype=torch.float32, training=False):
    model = model.train(training)
    x = torch.rand(2 if dynamic else 1, 3, SIZE, SIZE, dtype=dtype)
    options = {"dynamo": dynamo, "input_names": ["x"], "output_names": ["emb"]}
    if dynamic and dynamo:
        options["dynamic_shapes"] = {"x": {0: torch.export.Dim("n")}}
    elif dynamic:
        options["dynamic_axes"] = {"x": {0: "n"}}
    if training and not dynamo:
        options["training"] = torch.onnx.TrainingMode.TRAINING
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if dynamo:
                options["verbose"] = False
            torch.onnx.export(model, (x,), str(path), opset_version=opset, **options)
    finally:
        logging.disable(logging.NOTSET)
    return path


def same(path, original, *, atol=1e-4, **options):
    """Loads a file and compares it with the network it came from and with onnxruntime."""
    model = load_onnx(path, **options)
    x = images().requires_grad_()
    with torch.no_grad():
        expected = torch.cat([original.eval()(image).reshape(1, -1) for image in images().split(1)])
    got = model(x)
    torch.testing.assert_close(got.detach(), expected, atol=atol, rtol=1e-3)
    got.square().cumsum(1).sum().backward()
    assert (x.grad.flatten(1).abs().amax(1) > 0).all()
    return model


@pytest.mark.parametrize("opset", [9, 13, 17, 20])
@pytest.mark.parametrize("form", ["rows", "normalised", "norm", "sum of squares", "places"])
def test_legacy_exporter(tmp_path, opset, form):
    network = Face(form)
    same(export(network, tmp_path / "net.onnx", opset=opset), network)


@pytest.mark.parametrize("opset", [7, 8])
@pytest.mark.parametrize("form", ["rows", "norm"])
def test_legacy_exporter_of_old_opsets(tmp_path, opset, form):
    network = Face(form)
    same(export(network, tmp_path / "net.onnx", opset=opset), network)


@needs_dynamo
@pytest.mark.parametrize(
    ("opset", "form", "dynamic"),
    [
        (None, "rows", True),
        (17, "rows", False),
        (20, "vector", False),
        (23, "normalised", True),
    ],
)
def test_default_exporter(tmp_path, opset, form, dynamic):
    network = Face(form)
    path = export(network, tmp_path / "net.onnx", dynamo=True, opset=opset, dynamic=dynamic)
    model = same(path, network)
    assert model.fixed_batch != dynamic
    assert onnx_parity(model, path, images()) < 1e-4


@pytest.mark.parametrize(
    ("dynamo", "opset"),
    [(False, 14), (False, 17), (False, 20)]
    + [pytest.param(True, opset, marks=needs_dynamo) for opset in (23,)],
)
def test_layer_norm_gelu_and_attention(tmp_path, dynamo, opset):
    network = Attention()
    same(export(network, tmp_path / "net.onnx", dynamo=dynamo, opset=opset), network)


@pytest.mark.parametrize(
    ("dynamo", "opset"), [(False, 9), (False, 13), (False, 17), pytest.param(True, None, marks=needs_dynamo)]
)
def test_a_file_in_training_mode_is_loaded_for_inference(tmp_path, dynamo, opset):
    network = Face()
    path = export(network, tmp_path / "net.onnx", dynamo=dynamo, opset=opset, training=True)
    if not dynamo or opset:
        with pytest.warns(UserWarning, match=r"training mode.*inference network.*model\.eval\(\)"):
            same(path, network.eval())
    else:  # this exporter uses the running statistics by itself, and keeps the dropout
        with pytest.warns(UserWarning, match="Dropout in training mode"):
            same(path, network.eval())


@pytest.mark.parametrize("opset", [11, 13, 17])
def test_a_swin_transformer(tmp_path, opset):
    from torchvision.models.swin_transformer import SwinTransformer

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = SwinTransformer([4, 4], 16, [1, 1], [2, 2], [4, 4], num_classes=8).eval()
    same(export(network, tmp_path / "net.onnx", opset=opset), network)


def test_half_precision(tmp_path):
    network = Face().half()
    path = export(network, tmp_path / "net.onnx", opset=17, dtype=torch.float16)
    same(path, network.float(), atol=5e-3)


def test_external_data(tmp_path):
    network = Face()
    export(network, tmp_path / "net.onnx")
    model = onnx.load(tmp_path / "net.onnx")
    onnx.save(model, tmp_path / "out.onnx", save_as_external_data=True, location="out.data", size_threshold=0)
    same(tmp_path / "out.onnx", network)
    (tmp_path / "out.data").unlink()
    with pytest.raises(ValueError, match=r"out\.data.*beside"):
        load_onnx(tmp_path / "out.onnx")


def edit(path, change):
    model = onnx.load(path)
    change(model)
    onnx.save(model, path)
    return path


def reshape_slopes(shape):
    def change(model):
        slopes = {node.input[1] for node in model.graph.node if node.op_type == "PRelu"}
        for tensor in model.graph.initializer:
            if tensor.name in slopes:
                tensor.CopyFrom(
                    numpy_helper.from_array(numpy_helper.to_array(tensor).reshape(shape), tensor.name)
                )

    return change


@pytest.mark.parametrize("shape", [(4,), (4, 1, 1), (1, 4, 1, 1)])
def test_slopes_as_mxnet_writes_them(tmp_path, shape):
    network = Face()
    path = edit(export(network, tmp_path / "net.onnx", opset=9), reshape_slopes(shape))
    model = same(path, network)
    assert onnx_parity(model, path, images()) < 1e-4


def mxnet(path, network, spatial, every_place=False):
    """An MXNet-style file: opset 7, weights among the inputs, BatchNorm of the first form."""
    place = (4, 8, 8) if every_place else (4,)
    arrays = {
        "conv_w": network.conv.weight, "conv_b": network.conv.bias, "slope": network.prelu.weight,
        "fc_w": network.linear.weight, "fc_b": network.linear.bias,
    }  # fmt: skip
    for name, bn in (("bn", network.bn), ("last", network.last)):
        for part in ("weight", "bias", "running_mean", "running_var"):
            value = getattr(bn, part)
            arrays[f"{name}_{part}"] = (
                value[:, None, None].expand(place) if name == "bn" and every_place else value
            )
    tensors = [
        numpy_helper.from_array(value.detach().contiguous().numpy(), name) for name, value in arrays.items()
    ]
    parts = ("weight", "bias", "running_mean", "running_var")
    nodes = [
        helper.make_node("Conv", ["data", "conv_w", "conv_b"], ["c"], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4),  # noqa: E501
        helper.make_node("BatchNormalization", ["c", *(f"bn_{p}" for p in parts)], ["b"], spatial=spatial, epsilon=1e-5),  # noqa: E501
        helper.make_node("PRelu", ["b", "slope"], ["p"]),
        helper.make_node("AveragePool", ["p"], ["a"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Dropout", ["a"], ["d"], ratio=0.4),
        helper.make_node("Flatten", ["d"], ["f"]),
        helper.make_node("Gemm", ["f", "fc_w", "fc_b"], ["g"], transB=1),
        helper.make_node("BatchNormalization", ["g", *(f"last_{p}" for p in parts)], ["fc1"], spatial=spatial, epsilon=1e-5),  # noqa: E501
    ]  # fmt: skip
    inputs = [helper.make_tensor_value_info("data", 1, [1, 3, SIZE, SIZE])]
    inputs += [helper.make_tensor_value_info(t.name, 1, list(t.dims)) for t in tensors]
    output = helper.make_tensor_value_info("fc1", 1, [1, 6])
    graph = helper.make_graph(nodes, "mxnet", inputs, [output], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 7)], ir_version=3), str(path))
    return path


@pytest.mark.parametrize(("spatial", "every_place"), [(1, False), (0, False), (0, True)])
def test_a_file_as_mxnet_exports_it(tmp_path, spatial, every_place):
    network = Face().eval()
    same(mxnet(tmp_path / "net.onnx", network, spatial, every_place), network)


def append(model, nodes):
    """Nodes that take the output ``emb`` as ``before``."""
    for node in model.graph.node:
        node.output[:] = ["before" if name == "emb" else name for name in node.output]
    model.graph.node.extend(nodes)


@pytest.mark.parametrize("p", [1, 2])
def test_lp_normalization(tmp_path, p):
    path = export(Face(), tmp_path / "net.onnx", opset=13)
    edit(path, lambda m: append(m, [helper.make_node("LpNormalization", ["before"], ["emb"], axis=1, p=p)]))
    model = load_onnx(path)
    torch.testing.assert_close(
        model(images()), F.normalize(Face().eval()(images()), p=p).detach(), atol=1e-4, rtol=1e-3
    )


def test_a_refusal_names_the_operator_and_a_way_out(tmp_path):
    path = export(Face(), tmp_path / "net.onnx", opset=13)
    edit(path, lambda m: append(m, [helper.make_node("Hardmax", ["before"], ["emb"])]))
    with pytest.raises(ValueError, match=r"does not know its operator Hardmax .*CorrRISE"):
        load_onnx(path)


def test_the_way_out_of_a_refusal_works(tmp_path):
    import onnxruntime

    from captum_face import PairSimilarity
    from captum_face.attr import CorrRISE

    session = onnxruntime.InferenceSession(str(export(Face(), tmp_path / "net.onnx")))

    def network(x):
        return torch.from_numpy(session.run(None, {"x": x.numpy()})[0])

    pair = PairSimilarity(network)
    maps = CorrRISE(pair).attribute((images(1), images(2)[1:]), n_masks=20, seed=0)
    assert all(np.isfinite(m.numpy()).all() for m in maps)


@pytest.mark.parametrize("spatial", [0, 1])
def test_lrp_traces_a_repaired_file(tmp_path, spatial):
    pytest.importorskip("zennit", reason="needs the extra lrp")
    from captum_face import PairSimilarity
    from captum_face.attr import LRP

    network = Face().eval()
    model = load_onnx(mxnet(tmp_path / "net.onnx", network, spatial))
    sides = (images(1), images(2)[1:])
    for got, expected in zip(
        LRP(PairSimilarity(model)).attribute(sides),
        LRP(PairSimilarity(network)).attribute(sides),
        strict=True,
    ):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-3)


def test_the_command_line_refuses_without_a_traceback(tmp_path):
    from click.testing import CliRunner

    from captum_face.cli import main

    path = export(Face(), tmp_path / "net.onnx", opset=13)
    edit(path, lambda m: append(m, [helper.make_node("Hardmax", ["before"], ["emb"])]))
    face = tmp_path / "face.png"
    Image.fromarray(np.full((SIZE, SIZE, 3), 90, np.uint8)).save(face)
    result = CliRunner().invoke(
        main,
        [
            "explain",
            str(face),
            str(face),
            "--model",
            str(path),
            "--method",
            "fggb",
            "--output",
            str(tmp_path),
        ],
    )
    assert result.exit_code != 0
    assert isinstance(result.exception, SystemExit)
    assert "operator Hardmax" in " ".join(result.output.split())
