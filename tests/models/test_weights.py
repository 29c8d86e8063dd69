from __future__ import annotations

import os
import pickle
import re

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from captum_face.models import load_weights


def network(seed=0, width=4):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Linear(5, 2))


def prefixed(state, prefix):
    return {prefix + name: value for name, value in state.items()}


def same(model, state):
    return all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.fixture
def state():
    return network(seed=1).state_dict()


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".safetensors"])
def test_formats(tmp_path, state, suffix):
    path = tmp_path / f"weights{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    model = network().train()
    assert not same(model, state)
    assert load_weights(model, str(path)) is model
    assert same(model, state)
    assert model.training


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {"state_dict": s, "epoch": 3, "optimizer": {"lr": 0.1}},
        lambda s: {"model": {"net": s}, "best": torch.tensor(0.9)},
        lambda s: {"backbone": s, "head": {"kernel": torch.zeros(2)}},
        lambda s: prefixed(s, "module."),
        lambda s: {"state_dict": prefixed(s, "module.backbone.")},
        lambda s: {**prefixed(s, "encoder."), "epoch": 3},
        # AdaFace: Lightning's state_dict, the network under model., its head beside it
        lambda s: {"state_dict": {**prefixed(s, "model."), "head.kernel": torch.zeros(2, 9)}},
        lambda s: {k: v for k, v in s.items() if not k.endswith("num_batches_tracked")},
    ],
    ids=["lightning", "nested", "parts", "parallel", "chain", "counter", "adaface", "no-counter"],
)
def test_wrapped_state_dicts(tmp_path, state, wrap):
    torch.save(wrap(state), tmp_path / "weights.pth")
    model = network()
    state["1.num_batches_tracked"].zero_()
    load_weights(model, tmp_path / "weights.pth")
    assert same(model, state)


WORDS = [
    "state_dict",
    "model",
    "model_state_dict",
    "net",
    "net_state_dict",
    "params",
    "params_ema",
    "ema",
    "ema_state_dict",
    "student",
    "teacher",
    "backbone",
    "module",
    "_orig_mod",
    "encoder",
    "network",
    "generator",
    "weights",
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("word", WORDS)
def test_any_container_and_prefix_in_any_order(tmp_path, word, dtype):
    kept = {n: v.to(dtype) if v.is_floating_point() else v for n, v in network(seed=1).state_dict().items()}
    other = WORDS[(WORDS.index(word) + 5) % len(WORDS)]
    for wrap in (
        {word: kept, "epoch": 3},
        {word: {other: prefixed(kept, "module._orig_mod."), "optimizer": {"state": {0: torch.zeros(3)}}}},
        {other: {**prefixed(kept, f"{word}."), "head.weight": torch.zeros(7)}},
    ):
        torch.save(wrap, tmp_path / "weights.pth")
        model = load_weights(network(), tmp_path / "weights.pth")
        assert model[0].weight.dtype == torch.float32
        assert same(model, {n: v.to(model.state_dict()[n].dtype) for n, v in kept.items()})


@pytest.mark.parametrize("inside", [False, True])
def test_of_several_that_fit_one_is_taken_and_said(tmp_path, inside):
    student, teacher = network(seed=1).state_dict(), network(seed=2).state_dict()
    both = {"student": student, "teacher": teacher}
    if inside:
        both = {"state_dict": {f"{who}.{n}": v for who, state in both.items() for n, v in state.items()}}
    torch.save(both, tmp_path / "weights.pth")
    place = "state_dict." if inside else ""
    with pytest.warns(
        UserWarning, match=rf"took '{place}student', not '{place}teacher'.*key='{place}teacher'"
    ):
        assert same(load_weights(network(), tmp_path / "weights.pth"), student)
    assert same(load_weights(network(), tmp_path / "weights.pth", key=f"{place}teacher"), teacher)
    with pytest.raises(ValueError, match=r"under key='ema' in .*found .*student"):
        load_weights(network(), tmp_path / "weights.pth", key="ema")
    both = {"model": network(seed=1, width=5).state_dict(), "ema": teacher}  # one fits
    torch.save(both, tmp_path / "weights.pth")
    assert same(load_weights(network(), tmp_path / "weights.pth"), teacher)


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_quantised_entries_are_refused(tmp_path, state, dtype):
    torch.save({**state, "0.weight": state["0.weight"].to(dtype)}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=rf"1 of another type.*\(0\.weight: {str(dtype)[6:]}\)"):
        load_weights(network(), tmp_path / "weights.pth")


def test_whole_programs_are_refused_with_a_way_out_that_works(tmp_path):
    class Net(nn.Module):
        def __init__(self, seed):
            super().__init__()
            torch.manual_seed(seed)
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return self.conv(x).flatten(1)

    source = Net(1).eval()
    torch.jit.save(torch.jit.trace(source, torch.rand(1, 3, 8, 8)), str(tmp_path / "script.pt"))
    torch.export.save(torch.export.export(source, (torch.rand(1, 3, 8, 8),)), str(tmp_path / "program.pt2"))
    for name, what in (("script.pt", "a scripted model"), ("program.pt2", "an exported program")):
        with pytest.raises(ValueError, match=rf"is {what}.*torch\.save") as caught:
            load_weights(Net(0), tmp_path / name)
        code = (
            str(caught.value)
            .split("weights alone: ")[1]
            .replace("weights.pth", str(tmp_path / "weights.pth"))
        )
        exec(code, {"torch": torch})
        assert torch.equal(load_weights(Net(0), tmp_path / "weights.pth").conv.weight, source.conv.weight)


def test_a_prefix_of_the_models_own_is_kept(tmp_path):
    source, model = nn.ModuleDict({"model": network(1)}), nn.ModuleDict({"model": network()})
    torch.save(prefixed(source.state_dict(), "module."), tmp_path / "weights.pt")
    load_weights(model, tmp_path / "weights.pt")
    assert same(model, source.state_dict())


def test_the_model_keeps_its_precision(tmp_path, state):
    torch.save({name: value.half() for name, value in state.items()}, tmp_path / "half.pt")
    model = load_weights(network().double(), tmp_path / "half.pt")
    assert model[0].weight.dtype == torch.float64
    torch.testing.assert_close(model[0].weight, state["0.weight"].double(), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("0.weight"), r"1 of 9 missing \(0\.weight\)\. Expected"),
        (lambda s: s.update(extra=torch.zeros(1)), r": 1 unexpected \(extra\)\. Expected"),
        (
            lambda s: s.update({"2.bias": torch.zeros(7)}),
            r": 1 of another shape \(2\.bias: file \(7,\), model \(2,\)\)\. Expected",
        ),
        (
            lambda s: [s.pop(f"1.{n}") for n in ("weight", "bias", "running_mean", "running_var")],
            r"4 of 9 missing \(1\.weight, 1\.bias, 1\.running_mean, \.\.\.\)",
        ),
        (
            lambda s: [s.update({f"module.{n}": s.pop(n)}) for n in list(s)] + [s.popitem()],
            r"without their prefix 'module\.'\): 1 of 9 missing \(2\.bias\)",
        ),
    ],
    ids=["missing", "unexpected", "shape", "several", "prefixed"],
)
def test_weights_that_do_not_fit_are_named_and_leave_the_model_alone(tmp_path, state, change, message):
    state = dict(state)
    change(state)
    torch.save(state, tmp_path / "weights.pth")
    model, before = network(), network().state_dict()
    with pytest.raises(ValueError, match=f"do not fit Sequential.*{message}"):
        load_weights(model, tmp_path / "weights.pth")
    assert same(model, before)


class Evil:
    def __reduce__(self):
        return os.mkdir, (os.environ["EVIL_FOLDER"],)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_never_runs(tmp_path, monkeypatch, protocol):
    monkeypatch.setenv("EVIL_FOLDER", str(tmp_path / "made"))
    torch.save({"state_dict": Evil()}, tmp_path / "zip.pth", pickle_protocol=protocol)
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(Evil(), protocol))
    for name in ("zip.pth", "raw.pth"):
        with pytest.raises(ValueError, match=r"not opened|cannot read weights"):
            load_weights(network(), tmp_path / name)
    assert not (tmp_path / "made").exists()


def test_a_whole_saved_model_is_refused_with_the_way_out(tmp_path):
    torch.save(network(), tmp_path / "model.pth")
    with pytest.raises(ValueError, match=r"more than tensors \(torch\.nn\.modules.*state_dict"):
        load_weights(network(), tmp_path / "model.pth")


@pytest.mark.parametrize("name", ["page.pth", "page.safetensors", "page.onnx", "page"])
def test_a_file_of_another_kind(tmp_path, name):
    (tmp_path / name).write_bytes(b"<!DOCTYPE html><html></html>")
    hint = "load_onnx" if name.endswith("onnx") else "download is complete"
    with pytest.raises(ValueError, match=f"cannot read weights.*28 bytes.*<!DOCTYPE html>.*{hint}"):
        load_weights(network(), tmp_path / name)


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_a_truncated_or_empty_file(tmp_path, state, name):
    path = tmp_path / name
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    for content in (path.read_bytes()[:-100], b""):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=re.escape(f"cannot read weights from {path}")):
            load_weights(network(), path)


@pytest.mark.parametrize(
    ("content", "got"),
    [
        ({"epoch": 3, "lr": 0.1}, "a dict of epoch, lr"),
        ({"state_dict": {}}, "a dict of state_dict"),
        ({}, "a dict of nothing"),
        (torch.zeros(3), "a Tensor"),
        ([torch.zeros(3)], "a list"),
    ],
)
def test_a_file_without_weights(tmp_path, content, got):
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=f"expected a state dict .*; got {got}"):
        load_weights(network(), tmp_path / "weights.pth")


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="found nothing"):
        load_weights(network(), tmp_path / "weights.pth")
    with pytest.raises(FileNotFoundError, match="found a folder"):
        load_weights(network(), tmp_path)
