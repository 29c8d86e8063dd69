"""``captum-face identify``."""

from __future__ import annotations

import csv
import json
import re

import numpy as np
import pytest
from PIL import Image

from captum_face import Identification
from captum_face.maps.templates import TEMPLATES
from tests.cli.conftest import run


@pytest.fixture
def gallery(folder):
    """Three images, one of them the probe's own file, and a file that is no image."""
    random = np.random.default_rng(1)
    (folder / "people").mkdir()
    for name in ("ann.png", "bob.png", "probe.png"):
        Image.fromarray(random.integers(0, 256, (112, 112, 3), dtype=np.uint8)).save(folder / "people" / name)
    (folder / "people" / "broken.jpg").write_text("no image")
    return folder / "people"


def test_it_writes_what_it_says(folder, gallery):
    result = run(
        "identify", "people/probe.png", "people", "--model", "own_models:build_pair", "--top-k", "1",
        "--method", "corrrise:n_masks=12", "--smooth", "2", "--both", "--output", "out",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "left out: probe.png: the probe's own file" in result.output
    assert "left out: broken.jpg: could not read the image" in result.output
    assert "2 images searched, 2 left out" in result.output
    assert "Best match of 2: " in result.output
    files = {path.suffix: path for path in (folder / "out").iterdir()}
    assert files.keys() == {".png", ".npz", ".json", ".csv"}
    assert all(re.match(r"probe-\w{8}\.corrrise_n_masks=12\.", path.name) for path in files.values())
    summary = json.loads(files[".json"].read_text(encoding="utf-8"))
    assert summary["protocol"]["model"] == "own_models:build_pair"
    assert summary["protocol"]["options"]["n_masks"] == 12
    assert len(summary["matches"]) == 1
    assert summary["left_out"].keys() == {"probe.png", "broken.jpg"}


def test_another_score_and_a_class_of_captum(folder, gallery):
    result = run(
        "identify", "a.png", "people", "--model", "synthetic", "--score", "euclidean", "--top-k", "3",
        "--threshold", "5", "--method", "captum.attr.InputXGradient", "--output", "out",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    summary = json.loads(next((folder / "out").glob("*.InputXGradient.json")).read_text(encoding="utf-8"))
    assert summary["protocol"]["score"] == "euclidean"
    assert summary["threshold"] == -25
    distances = [match["shown"] for match in summary["matches"]]
    assert distances == sorted(distances)  # the most alike first
    assert distances == pytest.approx([(-match["score"]) ** 0.5 for match in summary["matches"]])
    assert [match["accepted"] for match in summary["matches"]] == [distance <= 5 for distance in distances]
    for distance in distances:
        assert f"{distance:8.4f}  {'accepted' if distance <= 5 else 'rejected'}" in result.output
    with open(next((folder / "out").glob("*.csv")), newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["distance"]) for row in rows] == pytest.approx(
        [(-float(r["score"])) ** 0.5 for r in rows]
    )
    found = Identification.load(next((folder / "out").glob("*.json")))
    assert found.verdict.split(", ")[1].startswith(f"distance {distances[0]:.3f} ")
    assert repr(found.matches[0]).endswith(f"distance={distances[0]:.3f})")


def test_it_says_what_does_not_fit(folder, gallery):
    Image.new("RGB", (100, 100)).save(gallery / "small.png")
    arguments = ("identify", "a.png", "people", "--model", "own_models:build")
    result = run(*arguments)
    assert result.exit_code != 0
    assert "expected gallery images of 112x112 pixels" in result.output
    assert "small.png (100x100)" in result.output
    for extra, message in (
        (("--method", "corise"), "did you mean 'corrrise'"),
        (("--method", "corrrise:n_mask=3"), "did you mean 'n_masks'"),
        (("--method", "all"), "unknown method 'all'"),
        (("--method", "fggb:threshold=1"), "expected the threshold as --threshold"),
        (("--method", "captum.attr.LayerGradCam:layer=conv3"), "expected a layer of the model"),
        (("--score", "cosin"), "did you mean 'cosine'"),
        (("--top-k", "0"), "top-k"),
        (("--output", "people/out"), "expected an output folder outside the gallery"),
    ):
        result = run(*arguments, *extra)
        assert result.exit_code != 0
        assert message in " ".join(result.output.split())
        assert not list(folder.glob("captum_face_output/*"))


def test_photos(folder, tmp_path):
    """A probe in a larger picture, and a gallery of a photo, a crop and a landscape."""
    (folder / "gallery").mkdir()
    rows = []
    for name, crop, scale in (("probe.png", "a.png", 2), ("gallery/photo.png", "b.png", 3)):
        photo = Image.new("RGB", (500, 500))
        photo.paste(Image.open(crop).resize((112 * scale, 112 * scale)), (60, 80))
        photo.save(name)
        points = [
            value
            for x, y in TEMPLATES["arcface"].points.values()
            for value in (60 + scale * x, 80 + scale * y)
        ]
        rows.append(",".join(map(str, (name.rpartition("/")[2], *points))))
    columns = ",".join(f"{name}_x,{name}_y" for name in TEMPLATES["arcface"].points)
    (folder / "own.csv").write_text("\n".join([f"image,{columns}", *rows]))
    Image.open("a.png").save("gallery/crop.png")
    Image.new("RGB", (300, 200), "green").save("gallery/landscape.png")
    result = run(
        "identify", "probe.png", "gallery", "--model", "synthetic", "--detector", "own.csv",
        "--output", "out", "--method", "xssab",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "2 images searched, 1 left out" in result.output
    assert "landscape.png" in result.output
    assert "best match of 2: crop.png" in result.output.lower()
    result = run("identify", "probe.png", "gallery", "--model", "synthetic", "--align", "never")
    assert "of the size (112, 112)" in result.output or "expected" in result.output
    assert result.exit_code != 0
