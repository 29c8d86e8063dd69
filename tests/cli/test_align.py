"""``captum-face align``: crops by the landmarks of a file, so that no detector is needed."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from captum_face.photos import TEMPLATES
from tests.cli.conftest import run


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Two photos, one of them listed with a face."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for name in ("a.jpg", "b.jpg"):
        Image.fromarray(np.full((112, 112, 3), 90, np.uint8)).save(tmp_path / "photos" / name)
    points = {name: list(point) for name, point in TEMPLATES["arcface"].points.items()}
    listed = [{"image": "a.jpg", "landmarks": points}, {"image": "b.jpg"}]
    (tmp_path / "photos" / "own.json").write_text(json.dumps(listed))
    return tmp_path


ALIGN = ("align", "photos", "--output", "crops", "--detector", "photos/own.json")


def test_crops_and_summary(photos):
    result = run(*ALIGN, "--size", "96x112")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("2 photos: 1 aligned, 0 of them with remarks, 1 refused; 2 looked at, ")
    assert "\nTable: crops/faces.csv" in result.stdout
    assert result.stderr.startswith("b.jpg: expected a face in b.jpg, found none: the landmark file")
    with Image.open(photos / "crops" / "a.png") as crop:
        assert crop.size == (96, 112)
    assert run(*ALIGN, "--size", "96x112").stdout.startswith("2 photos: 1 aligned")
    other = run(*ALIGN)
    assert (other.exit_code, other.stdout) == (1, "")
    assert "What differs: size was [112, 96], is [112, 112]" in other.stderr


def test_no_crop_at_all_is_an_error(photos):
    (photos / "photos" / "a.jpg").unlink()
    result = run(*ALIGN)
    assert result.exit_code == 1
    assert "1 photo: 0 aligned" in result.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--size", "small"), "expected a number of pixels such as 112, or WIDTHxHEIGHT, got 'small'"),
        (("--size", "0"), "expected a number of pixels"),
        (("--template", "arcfaces"), "'arcfaces' is not one of 'arcface', 'dlib', 'facenet'"),
        (("--detector", "dlip"), "unknown detector 'dlip'"),
        (("--detector", "none.csv"), "found nothing at none.csv"),
    ],
)
def test_bad_input(photos, words, message):
    result = run(*ALIGN, *words)
    assert result.exit_code != 0
    assert message in " ".join(result.stderr.split())
    assert not (photos / "crops").exists()
