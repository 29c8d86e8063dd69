"""``captum-face train-decoder``: finished decoders, and equal bytes."""

from __future__ import annotations

import pytest

from captum_face.decoder import FaceDecoder
from tests.cli.conftest import run

ARGUMENTS = (
    "train-decoder",
    "--synthetic",
    "24",
    "--model",
    "synthetic",
    "--steps",
    "2",
    "--batch-size",
    "2",
)


@pytest.mark.filterwarnings("default:the decoder does not keep identity")
def test_a_finished_decoder_is_recognised_and_no_other_is_overwritten(folder, monkeypatch):
    first = run(*ARGUMENTS, "--output", "own.safetensors", "--figure", "own.png")
    assert first.exit_code == 0, first.output
    written = {name: (folder / name).read_bytes() for name in ("own.safetensors", "own.png")}
    assert run(*ARGUMENTS, "--output", "again.safetensors").exit_code == 0
    assert (folder / "again.safetensors").read_bytes() == written["own.safetensors"]

    def train(*_, **__):
        raise AssertionError("trained anew")

    monkeypatch.setattr("captum_face.cli.train_decoder.train", train)
    (folder / "own.safetensors.checkpoint").write_bytes(b"left by a killed process")
    second = run(*ARGUMENTS, "--output", "own.safetensors", "--figure", "own.png")
    assert second.exit_code == 0, second.output
    assert "nothing was trained" in second.output
    assert second.stdout.splitlines()[-2:] == first.stdout.splitlines()[-2:]
    assert {name: (folder / name).read_bytes() for name in written} == written
    assert not (folder / "own.safetensors.checkpoint").exists()

    for more, message in (
        (("--steps", "3"), "differs in steps (2 there, 3 here)"),
        (("--seed", "1"), "differs in seed (0 there, 1 here), images"),
        (("--preprocess", "none"), "differs in model"),
    ):
        result = run(*ARGUMENTS, *more, "--output", "own.safetensors")
        assert result.exit_code != 0
        assert message in " ".join(result.output.split())
    FaceDecoder(128, width=8).save("own.safetensors")
    assert "steps (unknown there, 2 here)" in run(*ARGUMENTS, "--output", "own.safetensors").output
    (folder / "notes.txt").write_text("mine")
    result = run(*ARGUMENTS, "--output", "notes.txt")
    assert "expected a decoder saved by FaceDecoder.save" in result.output
    assert (folder / "notes.txt").read_text() == "mine"
