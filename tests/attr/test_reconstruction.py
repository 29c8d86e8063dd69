from __future__ import annotations

import csv
import json

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from captum_face import FGGB, PairSimilarity, Reconstruction, explain
from captum_face.cli import main
from captum_face.data import synthetic
from captum_face.decoder import FaceDecoder, decoder_channel_maps, shipped_decoder
from captum_face.engines.channels import weighted_channel_maps
from captum_face.models import load_pair
from captum_face.pair.scores import unit
from tests.conftest import small_decoder, small_net


@pytest.fixture(scope="module")
def bundled():
    return load_pair("synthetic")


@pytest.mark.parametrize("removal", ["zero", "mean"])
@pytest.mark.parametrize("threshold", [None, 0.7])
def test_against_the_formula(pair, images, removal, threshold):
    pair, images = pair.double(), tuple(image.double() for image in images)
    decoder = small_decoder().double()
    decoder.mean.copy_(torch.linspace(-0.2, 0.3, 7))
    got = Reconstruction(pair, decoder).attribute(images, removal=removal, threshold=threshold)
    theta = 0.2 if threshold is None else threshold
    f = [unit(pair.embed(image)).detach() for image in images]
    for side in (0, 1):
        for n in range(3):
            maps = decoder_channel_maps(decoder, f[side][n : n + 1], removal=removal)
            want = sum((f[0][n, k] * f[1][n, k] - theta / 7) * maps[k] for k in range(7))
            torch.testing.assert_close(got[side][n], want.expand(3, -1, -1))


def test_the_weights_are_fggbs(pair, images):
    """With the same channel maps both methods give the same attributions."""
    from captum_face.engines.channels import gradient_channel_maps

    inputs = tuple(image[:1] for image in images)
    maps = gradient_channel_maps(pair, inputs[0])
    f = [unit(pair.embed(image)).detach() for image in inputs]
    want = weighted_channel_maps(iter([(slice(0, 7), maps)]), f[0] * f[1] - pair.threshold / 7)
    torch.testing.assert_close(FGGB(pair).attribute(inputs)[0][:, 0], want)


class Quadrants(nn.Module):
    """An embedding of which each channel is the brightness of a quarter of the image."""

    def forward(self, x):
        quarters = x.mean(1).unflatten(1, (2, -1)).unflatten(3, (2, -1)).mean((2, 4))
        return quarters.flatten(1) - 0.5


class QuadrantDecoder(FaceDecoder):
    """Its perfect inverse, up to brightness."""

    def forward(self, embeddings):
        quarters = unit(embeddings).reshape(-1, 1, 2, 2) * 0.4 + 0.5
        return quarters.repeat_interleave(8, 2).repeat_interleave(8, 3).expand(-1, 3, -1, -1)


def test_a_planted_difference_is_found():
    """One quarter differs between two images: its channel alone speaks against a match."""
    quarters = torch.tensor([[0.9, 0.1], [0.1, 0.9]])
    a = quarters.repeat_interleave(8, 0).repeat_interleave(8, 1).expand(1, 3, -1, -1)
    b = a.clone()
    b[..., :8, :8] = 0.1
    pair = PairSimilarity(Quadrants(), threshold=0.0)
    maps = Reconstruction(pair, QuadrantDecoder(4, (16, 16), width=8)).attribute((a, b))
    changed = torch.zeros(16, 16, dtype=torch.bool)
    changed[:8, :8] = True
    for attr in maps:
        assert (attr[0, 0][changed] < 0).all()
        assert (attr[0, 0] > -1e-3)[~changed].all()


def test_cost(bundled, monkeypatch):
    """A forward pass for each image and one for the model's fingerprint; one image is drawn once for all."""
    seen, drawn = [], []
    net = bundled.embedding_model
    handle = net.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    forward = FaceDecoder.forward
    monkeypatch.setattr(FaceDecoder, "forward", lambda self, e: (drawn.append(len(e)), forward(self, e))[1])
    images = synthetic.pairs(3).image_a
    Reconstruction(bundled).attribute((images[:1], images[1:]))
    handle.remove()
    assert sum(seen) == 3 + 1
    assert sum(drawn) == 3 * (64 + 1)


def test_the_decoder_may_be_a_file_or_an_option(pair, images, tmp_path):
    inputs = tuple(image[:1] for image in images)
    path = tmp_path / "decoder.safetensors"
    small_decoder().save(path)
    want = Reconstruction(pair, path).attribute(inputs)
    got = explain(pair, *inputs, "reconstruction", decoder=str(path))
    torch.testing.assert_close(got.attributions, want)
    assert got.summary()["protocol"]["options"]["decoder"] == str(path)
    with pytest.raises(ValueError, match="none is shipped for this model; train one with `captum-face train"):
        Reconstruction(pair).attribute(inputs)


def test_a_decoder_without_identity_warns_with_the_figure(pair, images):
    decoder = small_decoder()
    decoder.report = {"identity": 0.1, "impostor_95": 0.3}
    with pytest.warns(UserWarning, match="cosine of an image and its reconstruction is 0.100"):
        Reconstruction(pair, decoder).attribute(images)


def test_models_without_gradients(images):
    net = small_net().eval()

    def service(x):
        with torch.no_grad():
            return net(x).numpy()

    got = Reconstruction(PairSimilarity(service), small_decoder()).attribute(images)
    want = Reconstruction(PairSimilarity(net), small_decoder()).attribute(images)
    torch.testing.assert_close(got, want)


def test_auto_is_a_batch_size_like_another(pair, images, monkeypatch):
    """Measured once for a decoder; the maps are those of the default."""
    measured = []

    def fake(run, device, rule):
        run(3)
        measured.append(rule)
        return 2

    monkeypatch.setattr("captum_face.decoder.maps.cheapest_batch_size", fake)
    method = Reconstruction(pair, small_decoder())
    torch.testing.assert_close(method.attribute(images, internal_batch_size="auto"), method.attribute(images))
    assert len(measured) == 1
    monkeypatch.undo()
    method = Reconstruction(pair, small_decoder())
    torch.testing.assert_close(method.attribute(images, internal_batch_size="auto"), method.attribute(images))
    with pytest.raises(ValueError, match="'auto' or None, got 'all'"):
        decoder_channel_maps(small_decoder(), torch.ones(1, 7), internal_batch_size="all")


def test_bad_options(pair, images):
    method = Reconstruction(pair, small_decoder())
    with pytest.raises(ValueError, match="did you mean 'zero'"):
        method.attribute(images, removal="zeros")
    with pytest.raises(ValueError, match="internal_batch_size"):
        method.attribute(images, internal_batch_size=0)


def test_the_shipped_decoder_keeps_identity_and_is_small(bundled):
    """Measured again, on people it has never seen."""
    from captum_face.decoder import evaluate_decoder
    from captum_face.decoder.network import _SHIPPED

    assert _SHIPPED.stat().st_size < 2_000_000
    people = synthetic.sample_identities(40, 2**27)
    images = synthetic.render(people, synthetic.sample_nuisance(40, 2**27, 0.5))
    report = evaluate_decoder(bundled, shipped_decoder(), images)
    assert report.keeps_identity
    assert report.identity > 0.7
    assert report.found > 0.9
    assert report.ssim > 0.4


@pytest.mark.filterwarnings("ignore:the decoder does not keep identity")
def test_command_trains_a_decoder_that_explain_takes(tmp_path, monkeypatch):
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    (tmp_path / "faces").mkdir()
    images = synthetic.render(synthetic.sample_identities(20, 0), synthetic.sample_nuisance(20, 0))
    for number, image in enumerate(images):
        pixels = (255 * image).byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(tmp_path / "faces" / f"{number:02}_1.png")
    factory = "def build():\n    from tests.conftest import small_net\n    return small_net().eval()\n"
    (tmp_path / "own_nets.py").write_text(factory)
    model = ["--model", "own_nets:build"]
    command = ["train-decoder", "--images", "faces", *model, "--output", "own.safetensors", "--steps", "2"]
    result = CliRunner().invoke(main, [*command, "--batch-size", "4", "--figure", "faces.png"])
    assert result.exit_code == 0, result.output
    assert "held-out images of 2 people: PSNR" in result.output
    assert {"own.safetensors", "faces.png"} <= {path.name for path in tmp_path.iterdir()}
    assert not (tmp_path / "own.safetensors.checkpoint").exists()
    pair = ["faces/00_1.png", "faces/01_1.png", *model, "--output", "out"]
    result = CliRunner().invoke(main, ["explain", *pair, "--method", "reconstruction"])
    assert result.exit_code != 0
    assert "none is shipped for this model; train one with" in result.output
    result = CliRunner().invoke(
        main, ["explain", *pair, "--method", "reconstruction:decoder=own.safetensors"]
    )
    assert result.exit_code == 0, result.output
    summary = json.loads(
        next((tmp_path / "out").glob("*.reconstruction_decoder=own.safetensors.json")).read_text("utf-8")
    )
    assert summary["protocol"]["options"]["decoder"] == "own.safetensors"
    monkeypatch.setattr(
        "captum_face.cli.train_decoder.train", lambda *_, **__: pytest.fail("trained for nothing")
    )
    result = CliRunner().invoke(main, [*command, "--figure", "faces.pgn"])
    assert "ending of a figure's file name" in result.output
    result = CliRunner().invoke(main, ["train-decoder", *model, "--output", "own.safetensors"])
    assert "expected one of --images and --synthetic" in result.output


def test_benchmark_takes_it(tmp_path):
    result = CliRunner().invoke(
        main,
        [
            *("benchmark", "--synthetic", "6", "--model", "synthetic", "--method", "reconstruction"),
            *("--metric", "changed_auc", "--examples", "0", "--output", str(tmp_path / "run")),
        ],
    )
    assert result.exit_code == 0, result.output
    with open(tmp_path / "run" / "metrics.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["method"] == "reconstruction"]
    assert rows
    assert all(row["n_failed"] == "0" for row in rows)
