"""dlib's detector and chips on real photos, and what a large one costs in memory."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from captum_face.photos import NoFaceError, align_face, find_faces, load_photo
from captum_face.photos.detectors.dlib import SMALL_PREDICTOR, dlib_file

pytestmark = pytest.mark.real
FACES = {"one_a.jpg": 1, "one_b.jpg": 1, "other.jpg": 1, "partial_face.jpg": 1, "two_people.jpg": 2}


@pytest.fixture(scope="module")
def dlib():
    return pytest.importorskip("dlib")


@pytest.mark.parametrize("name", FACES)
def test_chips_are_those_of_dlib(name, shared, dlib):
    """Scale and angle for dlib's own points, and the pixels."""
    photo = load_photo(shared / "photos" / name)
    faces = find_faces(photo)
    assert len(faces) == FACES[name]
    predictor = dlib.shape_predictor(str(dlib_file("shape_predictor_5_face_landmarks.dat")))
    for face in faces:
        shape = predictor(photo.pixels, dlib.rectangle(*map(round, face.box)))
        points = dict(zip(SMALL_PREDICTOR, ((p.x, p.y) for p in shape.parts()), strict=True))
        same = replace(face, landmarks={**face.landmarks, **points})
        matrix, details = same.transform("dlib"), dlib.get_face_chip_details(shape, 150, 0.25)
        assert math.hypot(*matrix[:, 0]) == pytest.approx(150 / details.rect.width(), abs=1e-9)
        assert math.atan2(-matrix[1, 0], matrix[0, 0]) == pytest.approx(details.angle, abs=1e-9)
        chip = torch.from_numpy(dlib.get_face_chip(photo.pixels, shape, size=150, padding=0.25)).float()
        crop = same.crop("dlib")[0].permute(1, 2, 0) * 255
        assert (crop - chip).abs().mean() < 4
        assert (crop.roll(2, 1) - chip).abs()[5:-5, 5:-5].mean() > 6
        for point in SMALL_PREDICTOR:  # ours come from the face enlarged
            assert math.dist(face.landmarks[point], points[point]) < 0.015 * photo.size[0]


def test_confidence_and_outline(shared, dlib):
    (face,) = find_faces(shared / "photos" / "one_a.jpg")
    assert face.confidence > 1
    assert face.outline.shape == (68, 2)
    np.testing.assert_allclose(face.outline[30], face.landmarks["nose"])
    assert face.landmarks["left_eye"][0] < face.landmarks["right_eye"][0]
    assert face.outline[:17, 0].argmin() < face.outline[:17, 0].argmax()


def test_photo_on_its_side(shared, dlib):
    photo = load_photo(shared / "photos" / "one_b.jpg")
    turned = replace(photo, pixels=np.rot90(photo.pixels).copy())
    with pytest.raises(
        NoFaceError, match=r"dlib's detector looked at .*turned by 90 degrees clockwise: turn"
    ):
        align_face(turned)


MEASURED = """
import re, sys
from pathlib import Path
import numpy as np
from captum_face.photos import align_face
crop = align_face(sys.argv[1], "dlib")
crop.to_photo(np.ones((*crop.template.size, 3)))
crop.to_photo(np.ones(crop.template.size))
# Not that of getrusage, which begins with what the parent had.
peak = re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1]
print(crop.photo_size, int(peak) * 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /proc")
def test_twelve_megapixels_fit_into_a_gibibyte(shared, dlib, tmp_path):
    """Found, cut out, and a map taken back, in a process of its own."""
    with Image.open(shared / "photos" / "two_people.jpg") as photo:
        photo.resize((4000, 3000)).save(tmp_path / "large.jpg")
    result = subprocess.run(
        [sys.executable, "-c", MEASURED, str(tmp_path / "large.jpg")],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert result.stdout.startswith("(3000, 4000) ")
    assert int(result.stdout.split()[-1]) < 2**30
