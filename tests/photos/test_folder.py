"""Folders of photos: what is aligned, refused, done again, and what a killed run leaves."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captum_face.photos import TEMPLATES, LandmarkFile, align_face, find_faces
from captum_face.photos.folder import align_folder
from tests.photos.conftest import Planted, placed, similarity

FACE = placed("arcface", similarity(8, 1.05, 15, 4))
SMALL = placed("arcface", similarity(0, 0.3, 5, 5))


class ByName(Planted):
    """Finds a face in every photo, two in those of that name, and none in others of that name."""

    def find(self, photo):
        self.faces = [] if "none" in photo.name else [SMALL, FACE] if "two" in photo.name else [FACE]
        return super().find(photo)


def noise(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (130, 140, 3))
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    for i, name in enumerate(("a.jpg", "a.png", "b/c.jpg", "b/d/two.png", "b/none.png", "é ü.png")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        noise(i).save(folder / name)
    (folder / "text.jpg").write_text("hello")
    (folder / "cut.jpg").write_bytes((folder / "a.jpg").read_bytes()[:2000])
    Image.new("L", (1, 1)).save(folder / "b" / "pixel.png")
    Image.new("L", (3000, 1000)).save(folder / "huge.png")
    (folder / "notes.txt").write_text("no photo")
    return folder


def align(photos, **options):
    return align_folder(
        photos, photos.parent / "crops", detector=ByName(), **{"max_pixels": 1_000_000, **options}
    )


def read(path) -> dict[str, dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return {row["image"]: row for row in csv.DictReader(file)}


def files(folder) -> dict[str, tuple[bytes, int]]:
    return {
        path.relative_to(folder).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_crops_table_and_refusals(photos):
    done = align(photos)
    output = photos.parent / "crops"
    assert str(done).startswith("10 photos: 5 aligned, 1 of them with remarks, 5 refused; 10 looked at, ")
    assert set(files(output)) == {
        *("a.jpg.png", "a.png.png", "b/c.png", "b/d/two.png", "é ü.png"),
        *("faces.csv", "records.jsonl", "settings.json"),
    }
    for name, message in {
        "b/none.png": "expected a face in none.png, found none",
        "b/pixel.png": "16 pixels or more",
        "cut.jpg": "could not read the image",
        "huge.png": "at most 1 megapixels, got huge.png with 3.0",
        "text.jpg": "could not read the image",
    }.items():
        assert message in done.refused[name]
    table = read(done.table)
    assert list(table) == sorted(table)
    assert {name: row["reason"] for name, row in table.items() if not row["crop"]} == done.refused
    for name in ("b/c.jpg", "b/d/two.png"):
        row = table[name]
        crop = align_face(photos / name, detector=ByName())
        assert np.array_equal(
            np.asarray(Image.open(output / row["crop"])),
            (crop.image[0] * 255).round().byte().permute(1, 2, 0).numpy(),
        )
        matrix = [[float(row[f"transform_a{i}{j}"]) for j in (1, 2, 3)] for i in (1, 2)]
        np.testing.assert_array_equal(matrix, crop.transform)
        assert (row["photo_width"], row["photo_height"]) == ("140", "130")
    assert (table["b/d/two.png"]["faces"], table["b/c.jpg"]["faces"]) == ("2", "1")
    assert "two.png shows 2 faces; this is the largest" in table["b/d/two.png"]["remarks"]


def test_table_is_a_file_of_landmarks(photos):
    table = align(photos).table
    (face,) = find_faces(photos / "b" / "c.jpg", LandmarkFile(table))
    assert face.landmarks == FACE["landmarks"]
    assert face.box == FACE["box"]
    again = align_folder(photos, photos.parent / "again", detector=table, max_pixels=1_000_000)
    assert again.aligned == 5
    for name in ("a.png.png", "b/d/two.png"):
        assert (photos.parent / "again" / name).read_bytes() == (photos.parent / "crops" / name).read_bytes()


def test_second_run_does_what_is_missing(photos):
    output = photos.parent / "crops"
    align(photos)
    before = files(output)
    again = align(photos)
    assert (again.new, again.aligned) == (0, 5)
    assert "looked at" not in str(again)
    after = files(output)
    assert {name: content for name, (content, _) in after.items()} == {
        name: content for name, (content, _) in before.items()
    }
    assert all(after[name] == before[name] for name in before if name.endswith(".png"))

    noise(50).save(photos / "b" / "c.jpg")  # changed
    (output / "b" / "d" / "two.png").unlink()  # lost
    noise(51).save(photos / "new.jpg")
    assert align(photos).new == 3
    assert read(output / "faces.csv").keys() >= {"new.jpg"}
    changed = files(output)
    assert changed["b/c.png"][0] != before["b/c.png"][0]
    assert changed["b/d/two.png"][0] == before["b/d/two.png"][0]
    assert align(photos, max_pixels=4_000_000).new == 5  # refused ones alone: the limit may be the reason
    assert align(photos, max_pixels=4_000_000).new == 0


def test_no_crop_of_a_photo_as_it_was(photos):
    output = photos.parent / "crops"
    align(photos)
    (photos / "b" / "c.jpg").write_text("damaged since")
    noise(9).save(photos / "é ü.jpg")  # takes the name of a crop from another photo
    (photos / "a.png").unlink()
    done = align(photos)
    assert "b/c.jpg" in done.refused
    assert not (output / "b" / "c.png").exists()
    assert {row["crop"] for row in done.rows} >= {"é ü.png.png", "é ü.jpg.png", "a.png"}
    assert not (output / "é ü.png").exists()
    assert not (output / "a.jpg.png").exists()
    assert done.gone == ("a.png.png",)
    assert "a.png" not in read(done.table)


def test_other_settings_are_not_mixed(photos):
    before = files(align(photos).table.parent)
    for options, what in (
        ({"template": "dlib"}, r"template was 'arcface', is 'dlib'"),
        ({"size": (224, 224)}, r"size was \[112, 112\], is \[224, 224\]"),
        ({"detector": Planted()}, r"detector was .*ByName.* is 'Planted"),
    ):
        with pytest.raises(ValueError, match=rf"crops that were made otherwise; .*What differs: .*{what}"):
            align_folder(photos, photos.parent / "crops", **{"detector": ByName(), **options})
    with pytest.raises(ValueError, match="folder was"):
        align_folder(photos / "b", photos.parent / "crops", detector=ByName())
    assert files(photos.parent / "crops") == before


def test_output_that_is_not_ours(photos, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.png").write_bytes(b"precious")
    with pytest.raises(ValueError, match=r"new, empty or of an earlier call, got .*mine with a.png; choose"):
        align_folder(photos, tmp_path / "mine", detector=ByName())
    assert files(tmp_path / "mine").keys() == {"a.png"}
    with pytest.raises(ValueError, match="output folder of its own, got that of the photos"):
        align_folder(photos, photos, detector=ByName())
    with pytest.raises(FileNotFoundError, match="expected a folder of images, found nothing"):
        align_folder(tmp_path / "none", tmp_path / "crops", detector=ByName())
    (tmp_path / "crops").mkdir()
    (tmp_path / "crops" / "settings.json").write_text("{")
    with pytest.raises(ValueError, match="settings in .* which is damaged"):
        align(photos)


def test_crops_below_the_photos_are_no_photos(photos):
    for _ in range(2):
        done = align_folder(photos, photos / "out", detector=ByName(), max_pixels=1_000_000)
        assert len(done.rows) == 10


def test_names_that_would_collide(tmp_path):
    names = ("a.jpg", "a.png", "A.bmp", "a.jpg.png", "b.c.png", "b.png", "a/a.jpg")
    for name in names:
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        noise(1).save(tmp_path / "photos" / name)
    done = align_folder(tmp_path / "photos", tmp_path / "crops", detector=ByName())
    crops = {row["image"]: row["crop"] for row in done.rows}
    assert len({crop.casefold() for crop in crops.values()}) == len(names)
    assert (crops["b.c.png"], crops["b.png"], crops["a/a.jpg"]) == ("b.c.png", "b.png", "a/a.png")


def test_detector_that_fails_costs_its_photos(photos):
    class Failing(ByName):
        def find(self, photo):
            if photo.name == "c.jpg":
                raise RuntimeError("out of\nmemory")
            return super().find(photo)

    done = align_folder(photos, photos.parent / "crops", detector=Failing())
    assert done.refused["b/c.jpg"] == "out of memory"
    assert done.aligned == 5


def test_frames_are_a_remark(tmp_path):
    (tmp_path / "photos").mkdir()
    noise(0).save(tmp_path / "photos" / "a.gif", save_all=True, append_images=[noise(1)])
    done = align_folder(tmp_path / "photos", tmp_path / "crops", detector=ByName())
    assert "has 2 frames; the first is used" in done.rows[0]["remarks"][0]


def test_killed_at_any_moment(photos):
    """What was recorded is kept; the same call ends with what an undisturbed one gives."""
    output = photos.parent / "crops"
    whole = align_folder(photos, photos.parent / "whole", detector=ByName(), max_pixels=1_000_000)
    code = (
        "import time\nfrom captum_face.photos.folder import align_folder\n"
        "from tests.photos.test_folder import ByName\nfind = ByName.find\n"
        "ByName.find = lambda self, photo: (time.sleep(0.2), find(self, photo))[1]\n"
        f"align_folder({str(photos)!r}, {str(output)!r}, detector=ByName(), max_pixels=1_000_000)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2])
    records = output / "records.jsonl"
    until = time.monotonic() + 60
    while time.monotonic() < until and (not records.exists() or records.read_bytes().count(b"\n") < 3):
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    kept = records.read_bytes().count(b"\n")
    with records.open("ab") as file:
        file.write(b'{"image": "a.jpg", "fi')  # as a kill cuts a line
    (output / ".a.png.1.part").write_bytes(b"half")
    done = align(photos)
    assert done.new == 10 - kept
    assert done.table.read_bytes() == whole.table.read_bytes()
    for row in done.rows:
        if row["crop"]:
            assert (output / row["crop"]).read_bytes() == (whole.table.parent / row["crop"]).read_bytes()
    assert not (output / ".a.png.1.part").exists()
    assert all(json.loads(line) for line in records.read_bytes().splitlines())


def test_template_of_ones_own(photos):
    own = TEMPLATES["arcface"].resized((96, 80))
    done = align_folder(photos, photos.parent / "crops", own, detector=ByName())
    with Image.open(done.table.parent / "b" / "c.png") as crop:
        assert crop.size == (80, 96)
