"""Any command on consoles of any encoding, with names that no console can show, and with nobody reading."""

from __future__ import annotations

import codecs
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captum_face.cli import COMMANDS, main
from captum_face.maps.templates import TEMPLATES

ENCODINGS = ("ascii", "cp1252", "cp437", "shift_jis", "utf-16-le")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def faces(folder):
    """Two images with names of another script, and a gallery with one name whose bytes are no text."""
    (folder / "Fälle").mkdir()
    random = np.random.default_rng(2)
    for name in ("顔.png", "лицо.png"):
        Image.fromarray(random.integers(0, 256, (112, 112, 3), dtype=np.uint8)).save(folder / name)
        (folder / "Fälle" / name).write_bytes((folder / name).read_bytes())
    (folder / "顔.png").rename(folder / "probe.png")
    points = {name: list(point) for name, point in TEMPLATES["arcface"].points.items()}
    (folder / "own.json").write_text(json.dumps([{"image": "Fälle/лицо.png", "landmarks": points}]))
    broken = os.fsdecode(b"\xe9.png")
    try:
        (folder / "Fälle" / broken).write_bytes((folder / "лицо.png").read_bytes())
    except OSError:
        pytest.skip("this file system takes no such names")
    return folder


def answer(monkeypatch, encoding, *arguments):
    """Exit code and what a console of an encoding shows on both streams."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict") for _ in range(2)]
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", streams[0])
        patched.setattr(sys, "stderr", streams[1])
        try:
            main([str(argument) for argument in arguments], prog_name="captum-face")
        except SystemExit as end:
            code = end.code
    assert [sys.stdout, sys.stderr] != streams
    for stream in streams:
        stream.flush()
    return code, *(stream.buffer.getvalue().decode(encoding) for stream in streams)


OWN = ("--model", "own_models:build")
RUNS = {
    "demo": ("--output", "demo.png", "--changed", "mouth"),
    "explain": ("a.png", "a.png", *OWN, "--threshold", "0.5", "--method", "fggb", "--output", "out"),
    "align": ("Fälle", "--output", "out", "--detector", "own.json"),
    "identify": ("лицо.png", "Fälle", *OWN, "--threshold", "0.5", "--method", "xssab", "--output", "out"),
    "benchmark": ("--synthetic", "3", "--model", "synthetic", "--method", "center", "--limit", "2",
                  "--metric", "deletion_black", "--threshold", "0.5", "--examples", "0", "--output", "out"),
    "train-decoder": ("--synthetic", "24", "--model", "synthetic", "--steps", "1", "--batch-size", "2",
                      "--output", "é.safetensors"),
    "threshold": ("--synthetic", "60", "--model", "synthetic", "--far", "0.3", "--output", "set.json"),
    "methods": (),
}  # fmt: skip


@pytest.mark.filterwarnings("default::UserWarning")
@pytest.mark.parametrize("command", RUNS)
def test_every_command_on_a_console_of_ascii(faces, monkeypatch, command):
    code, shown, problems = answer(monkeypatch, "ascii", command, *RUNS[command])
    assert code == 0, problems
    assert shown.isascii()
    if "--output" in RUNS[command]:
        assert Path(RUNS[command][RUNS[command].index("--output") + 1]).exists()


def test_no_command_is_forgotten():
    assert {*RUNS} >= {*COMMANDS}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_an_accepted_pair_on_any_console(faces, monkeypatch, encoding):
    code, shown, problems = answer(
        monkeypatch,
        encoding,
        "explain",
        "лицо.png",
        "лицо.png",
        *OWN,
        "--threshold",
        "0.5",
        "--method",
        "fggb",
    )
    assert code == 0, problems
    can = "≥".encode(encoding, "ignore").decode(encoding) or ">="
    assert f"Score 1.000 {can} threshold 0.500" in shown
    assert len(list((faces / "captum_face_output").iterdir())) == 3


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_errors_warnings_and_usage_on_any_console(faces, monkeypatch, encoding):
    for arguments, message in (
        (("explain", "顔.png", "a.png", *OWN), "expected an image file"),
        (("explain", "a.png", "b.png", "--model", "модель"), "unknown model"),
        (("explain", "a.png", "b.png", *OWN, "--methöd", "x"), "No such option"),
        (("顔",), "No such command"),
        (("explain", "a.png", os.fsdecode(b"\xff.png"), *OWN), r"\udcff.png"),
    ):
        code, _, problems = answer(monkeypatch, encoding, *arguments)
        assert code not in (0, None)
        assert message in problems


@pytest.mark.filterwarnings("default:Glyph")
def test_names_that_are_no_text_stay_what_they_are(faces, monkeypatch):
    name = os.fsdecode(b"\xe9.png")
    run = ("identify", "probe.png", "Fälle", *OWN, "--method", "xssab", "--output", "out")
    code, shown, problems = answer(monkeypatch, "utf-8", *run)
    assert code == 0, problems
    assert r"\udce9.png" in shown
    assert "лицо.png" in shown
    code, _, problems = answer(
        monkeypatch, "utf-8", "explain", f"Fälle/{name}", "a.png", *OWN, "--method", "fggb", "--output", "two"
    )
    assert code == 0, problems
    text = next((faces / "two").glob("*.json")).read_text("utf-8")
    assert r"\udce9.png" in text


@pytest.mark.skipif(os.name == "nt", reason="pipes break in another way there")
def test_results_are_saved_when_nobody_reads(faces):
    """As in ``captum-face explain ... | head -0``: no traceback, and all methods run."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "captum_face", "explain", "a.png", "b.png", *OWN]
    done = subprocess.run(
        [*command, "--method", "fggb", "--method", "xssab", "--output", "out"],
        stdout=write, stderr=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    os.close(write)
    assert (done.returncode, b"Traceback" in done.stderr, b"BrokenPipe" in done.stderr) == (0, False, False)
    assert len(list((faces / "out").glob("*.npz"))) == 2
    assert list((faces / "out").glob("*.comparison.*"))


def test_as_a_process(faces):
    environment = os.environ | {"PYTHONIOENCODING": "cp1252", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "captum_face", "explain", "a.png", "a.png", *OWN, "--threshold", "0.5",
         "--method", "fggb"],
        capture_output=True, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Score 1.000 >= threshold 0.500" in done.stdout.decode("cp1252")


def test_streams_without_an_encoding(faces, monkeypatch):
    shown = io.StringIO()
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", shown)
        patched.setattr(sys, "stderr", None)  # as under pythonw
        with pytest.raises(SystemExit):
            main(["methods"])
    assert "corrrise" in shown.getvalue()


def test_only_signs_that_cannot_be_encoded_are_handled():
    assert "≥·中é".encode("latin-1", "captum_face.spell") == b">=\xb7\\u4e2d\xe9"
    with pytest.raises(UnicodeDecodeError):
        codecs.decode(b"\xff", "utf-8", "captum_face.spell")
