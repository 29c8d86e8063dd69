"""Landmarks of one's own: what is read, which photo they are of, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from captum_face.photos import FIVE_POINTS, LandmarkFile, NoFaceError, Photo, align_face, find_faces
from tests.photos.conftest import five

COLUMNS = ",".join(["image", *(f"{name}_{axis}" for name in FIVE_POINTS for axis in "xy")])
NUMBERS = "30,40,70,41,50,60,35,80,65,81.5"
POINTS = five(30, 40, 70, 41, 50, 60, 35, 80, 65, 81.5)
JSON = {"image": "a.jpg", "landmarks": {name: list(point) for name, point in POINTS.items()}}


def photo(name="a.jpg", path=None, size=(120, 100)):
    return Photo(np.zeros((*size, 3), np.uint8), name, path)


@pytest.fixture
def write(tmp_path):
    def written(*lines, name="own.csv", encoding="utf-8"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes("\n".join(lines).encode(encoding))
        return path

    return written


def test_csv(write):
    found = find_faces(photo(), write(COLUMNS, f"a.jpg,{NUMBERS}", f"b.jpg,{NUMBERS}"))
    assert [face.landmarks for face in found] == [POINTS]
    left, top, right, bottom = found[0].box
    assert left < 30 < 70 < right
    assert top < 40 < 81.5 < bottom
    assert (right - left) == pytest.approx(bottom - top)
    assert (found[0].confidence, found[0].outline) == (None, None)


def test_everything_that_a_file_can_say(write):
    outline = [[i, 2 * i] for i in range(68)]
    extra = {"box": [1, 2, 90, 95], "confidence": 0.5, "outline": outline, "photo_width": 100}
    row = {**JSON, **extra, "photo_height": 120}
    row["landmarks"] = {**row["landmarks"], "chin": [50, 100]}
    columns = [
        COLUMNS,
        "box_left,box_top,box_right,box_bottom,confidence,photo_width,photo_height,chin_x,chin_y",
    ]
    columns += [f"outline_{i}_{axis}" for i in range(68) for axis in "xy"]
    numbers = [NUMBERS, "1,2,90,95,0.5,100,120,50,100", *(f"{v}" for point in outline for v in point)]
    of_csv = write("\ufeff" + ",".join([*columns, "mine"]), ",".join(["a.jpg", *numbers, "ignored"]))
    of_json = write(json.dumps([row]), name="own.json")
    for path in (of_csv, of_json):
        (face,) = LandmarkFile(path).find(photo())
        assert face.landmarks == {**POINTS, "chin": (50, 100)}
        assert (face.box, face.confidence) == ((1, 2, 90, 95), 0.5)
        np.testing.assert_array_equal(face.outline, outline)
        with pytest.raises(
            ValueError, match=r"a.jpg with 100 x 120 pixels as .* says, got 120 x 100: .*turned"
        ):
            LandmarkFile(path).find(photo(size=(100, 120)))


def test_several_faces_and_none(write):
    small = "30,40,40,40,35,45,31,50,39,50"
    path = write(COLUMNS, f"a.jpg,{small}", f"a.jpg,{NUMBERS}", "b.jpg" + "," * 10)
    largest, other = find_faces(photo(), path)
    assert largest.landmarks == POINTS
    assert other.landmarks == five(30, 40, 40, 40, 35, 45, 31, 50, 39, 50)
    with pytest.raises(NoFaceError, match=r"in b.jpg, found none: the landmark file .* lists it without"):
        align_face(photo("b.jpg"), detector=path)


def test_which_photo_is_meant(write, tmp_path):
    path = write(
        COLUMNS, *(f"{name},{NUMBERS}" for name in ("a.jpg", "b/a.jpg", "b\\c.jpg", "/far/d.jpg", "b/e.jpg"))
    )
    file = LandmarkFile(path)

    def entry(name):
        given = tmp_path / name
        return "/".join(file._entry(photo(given.name, given)))

    assert entry("a.jpg") == "a.jpg"  # below the folder of the file
    assert entry("b/a.jpg") == entry("elsewhere/b/a.jpg") == "b/a.jpg"
    assert entry("b/c.jpg") == "b/c.jpg"
    with pytest.raises(
        ValueError, match=r"several of this file name \(a.jpg, b/a.jpg\); say in which folder"
    ):
        entry("elsewhere/a.jpg")
    assert LandmarkFile(path, folder=tmp_path / "elsewhere").find(
        photo("a.jpg", tmp_path / "elsewhere" / "a.jpg")
    )
    for name in ("c/e.jpg", "d.jpg"):
        with pytest.raises(ValueError, match=f"{name} in .*in other folders alone: .*; write their paths"):
            entry(name)
    with pytest.raises(ValueError, match=r"expected f.jpg in .* does not list it among its 5 images$"):
        entry("f.jpg")
    with pytest.raises(ValueError, match=r"name an image that is no file with load_photo"):
        file.find(photo("photo"))
    assert file.find(photo("b/e.jpg"))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([""], "expected the columns image, left_eye_x.*got an empty file"),
        ([COLUMNS], "got a file that lists no image"),
        ([COLUMNS.replace(",nose_x", ""), "a"], "expected the columns nose_x in .*own.csv, got image, left_"),
        ([COLUMNS.replace(",", ";"), "a"], "separate them by commas"),
        (
            [COLUMNS, "a.jpg,x,40,70,41,50,60,35,80,65,81"],
            "2 finite numbers for left_eye in .*own.csv, line 2",
        ),
        (
            [COLUMNS, "a.jpg,30,nan,70,41,50,60,35,80,65,81"],
            "2 finite numbers for left_eye in .*, line 2, got",
        ),
        ([COLUMNS, "a.jpg,,40,70,41,50,60,35,80,65,81"], "a number for left_eye_x in .*line 2, got nothing"),
        (
            [COLUMNS, "a.jpg,30,40" + "," * 8],
            "expected the landmarks right_eye, nose, mouth_left, mouth_right",
        ),
        ([COLUMNS, f",{NUMBERS}"], "path of a photo as image in .*line 2, got ''"),
        ([f"{COLUMNS},outline_0_x,outline_0_y", "a"], "outline_0_x to outline_67_y .*none for outline_1"),
    ],
)
def test_csv_that_is_refused(lines, message, write):
    with pytest.raises(ValueError, match=message):
        LandmarkFile(write(*lines))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "expected JSON in .*own.json"),
        ("{}", "expected a list of objects .* got '{}'"),
        ("[]", "lists no image"),
        (json.dumps([{**JSON, "landmarks": [[1, 2]]}]), r"landmarks as .*object 1, got \[\[1, 2\]\]"),
        (
            json.dumps([JSON, {**JSON, "landmarks": {"nose": [1, 2]}}]),
            "landmarks left_eye, .*object 2, got none",
        ),
        (json.dumps([{**JSON, "box": [1, 2, 3]}]), "4 finite numbers for box in .*object 1"),
        (json.dumps([{**JSON, "box": [1, 2, 3, True]}]), "4 finite numbers for box"),
        (json.dumps([{**JSON, "confidence": "high"}]), "a finite number for confidence"),
        (json.dumps([{**JSON, "outline": [[1, 2]] * 67}]), "outline as 68 points"),
        (json.dumps([{**JSON, "image": 3}]), "path of a photo as image .*got 3"),
    ],
)
def test_json_that_is_refused(content, message, write):
    with pytest.raises(ValueError, match=message):
        LandmarkFile(write(content, name="own.json"))


def test_files_that_are_none(write, tmp_path):
    with pytest.raises(FileNotFoundError, match="found nothing at .*none.csv"):
        LandmarkFile(tmp_path / "none.csv")
    with pytest.raises(FileNotFoundError, match="found a folder at"):
        LandmarkFile(tmp_path)
    with pytest.raises(ValueError, match="expected landmarks as text in UTF-8, got .*; save it as UTF-8"):
        LandmarkFile(write(COLUMNS, f"é.jpg,{NUMBERS}", encoding="latin-1"))
    assert LandmarkFile(write(COLUMNS, f"é.jpg,{NUMBERS}")).find(photo("é.jpg"))


def test_settings_say_what_a_file_holds(write):
    before = repr(LandmarkFile(write(COLUMNS, f"a.jpg,{NUMBERS}")))
    assert before == repr(LandmarkFile(write(COLUMNS, f"a.jpg,{NUMBERS}")))
    assert before != repr(LandmarkFile(write(COLUMNS, f"a.jpg,{NUMBERS}1")))
