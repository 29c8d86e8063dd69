"""Landmarks found in crops, and the check of alignment by them."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from captum_face import explain
from captum_face.data import check_faces, render_faces, synthetic
from captum_face.data.alignment import FARTHEST, FaceCheck
from captum_face.data.images import load_image
from captum_face.maps.landmarks import Landmarks
from captum_face.maps.regions import face_regions, region_shares
from captum_face.maps.templates import FIVE_POINTS, TEMPLATES
from captum_face.models import load_pair
from captum_face.photos import align_face, check_crops, find_landmarks
from captum_face.photos import landmarks as module
from tests.maps.test_regions import turned

ARCFACE = TEMPLATES["arcface"]


def placed(degrees=0.0, scale=1.0, shift=(0.0, 0.0), noise=0.0, template=ARCFACE):
    """A template's points about their middle, turned clockwise, resized and moved."""
    five = np.array([template.points[name] for name in FIVE_POINTS])
    middle = five.mean(0)
    points = turned(five - middle, degrees, scale, middle + shift)
    points += np.random.default_rng(0).normal(0, noise, points.shape) if noise else 0
    return Landmarks({name: (x, y) for name, (x, y) in zip(FIVE_POINTS, points, strict=True)})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"shift": (9, 0)}, "it looks moved by about 9 px right"),
        ({"shift": (-6, -6)}, "it looks moved by about 6 px left and 6 px up"),
        ({"degrees": 20}, "it looks turned by about 20 degrees clockwise"),
        ({"degrees": -90}, "it looks turned by about 90 degrees anticlockwise"),
        ({"degrees": 180}, "it looks upside down"),
        ({"scale": 1.5}, r"it looks too large \(1.50 times the size\)"),
        ({"scale": 0.6, "shift": (2, 1)}, r"it looks too small \(0.60 times the size\)"),
    ],
)
@pytest.mark.parametrize("template", ["arcface", "dlib"])
def test_a_face_off_its_place_fails_and_is_told_how(change, words, template):
    image, wanted = torch.zeros(1, 3, *TEMPLATES[template].size), TEMPLATES[template]
    (check,) = check_faces(image, template, [placed(**change, template=wanted)])
    assert not check.passed
    assert check.by == "landmarks"
    assert re.fullmatch(words, check.looks), check.looks
    assert "px off on average, expected at most" in check.message("a.png")


def test_figure_and_distances():
    found = placed(shift=(3, 4))
    (check,) = check_faces(torch.zeros(1, 3, 112, 112), "arcface", [found])
    assert check.figure == pytest.approx(5)
    assert check.limit == pytest.approx(FARTHEST * math.dist((38.2946, 51.6963), (73.5318, 51.5014)))
    assert check.distances == pytest.approx(dict.fromkeys(FIVE_POINTS, 5))
    assert FaceCheck.of_summary(check.summary()) == check
    # An expression or a profile moves points, and not the face.
    (check,) = check_faces(torch.zeros(1, 3, 112, 112), "arcface", [placed(noise=3)])
    assert check.passed
    assert max(check.distances.values()) > 3
    assert check.message("a.png").startswith("a.png looks like a face in ArcFace's alignment (eyes ")
    # The same face in a crop of twice the size.
    doubled = {name: (2 * x + 0.5, 2 * y + 0.5) for name, (x, y) in found.points.items()}
    (large,) = check_faces(torch.zeros(1, 3, 224, 224), "arcface", [Landmarks(doubled)])
    assert large.figure / large.limit == pytest.approx(5 / (FARTHEST * ARCFACE.eye_distance), rel=0.1)


def test_where_none_are_found_appearance_decides():
    face = render_faces(1, seed=3)
    assert check_faces(face, "arcface", [None]) == check_faces(face)
    assert check_faces(face)[0].by == "appearance"
    assert check_faces(face, "dlib") == ()
    (check,) = check_faces(face, "dlib", [None])
    assert (check.passed, check.looks) == (False, "it shows no clear face")
    assert check.message("a.png").endswith("dlib's alignment: it shows no clear face (no landmarks found)")
    with pytest.raises(ValueError, match="expected landmarks for 1 images, got 2"):
        check_faces(face, "arcface", [None, None])


def test_checks_saved_before_there_were_landmarks():
    old = {"figure": 0.4, "limit": 0.2, "looks": "", "alignment": "arcface", "passed": True}
    assert FaceCheck.of_summary(old) == FaceCheck(0.4, "")
    with pytest.raises(ValueError, match="unknown check 'guess'"):
        FaceCheck.of_summary(old | {"by": "guess"})


def test_rendered_faces_are_checked_by_appearance():
    pytest.importorskip("dlib")
    checks = check_crops(render_faces(12, seed=8, strength=1.0), "arcface")
    assert all(check.passed and check.by == "appearance" for check in checks)


def test_without_the_extra(monkeypatch):
    def missing():
        raise ImportError("no dlib")

    monkeypatch.setattr(module, "crop_detector", missing)
    monkeypatch.setattr(module, "_known", type(module._known)())
    face = synthetic.pair(seed=1).image_a
    assert find_landmarks(torch.rand(2, 3, 112, 112)) is None
    assert check_crops(face, "arcface") == check_faces(face)
    assert check_crops(face, "dlib") == check_crops(face, None) == ()


def test_what_was_seen_is_not_looked_for_again(monkeypatch):
    pytest.importorskip("dlib")
    calls = []
    detector = module.crop_detector()
    monkeypatch.setattr(
        module,
        "crop_detector",
        lambda: type(
            "Spy", (), {"find": lambda _, photo: calls.append(photo.size) or detector.find(photo)}
        )(),
    )
    images = torch.rand(2, 3, 112, 96, generator=torch.Generator().manual_seed(5))
    assert find_landmarks(images) == [None, None]
    assert calls == [(336, 288)] * 2
    assert find_landmarks(images.double()) == find_landmarks(images) == [None, None]
    assert len(calls) == 2
    assert find_landmarks(torch.rand(1, 3, 20, 24)) == [None]
    assert len(calls) == 2


@pytest.mark.real
@pytest.mark.parametrize("template", ["arcface", "dlib"])
def test_crops_of_photos(shared, monkeypatch, template):
    pytest.importorskip("dlib")
    crop = align_face(shared / "photos" / "one_a.jpg", template)
    (found,) = find_landmarks(crop.image)  # anew
    for name in FIVE_POINTS:
        assert math.dist(found.points[name], crop.points[name]) < 3
    assert np.linalg.norm(found.outline - crop.crop_outline, axis=1).mean() < 3
    (check,) = check_crops(crop.image, template)
    assert (check.passed, check.by) == (True, "landmarks")


@pytest.mark.real
def test_an_explanation_of_photos_takes_the_landmarks_it_has(shared, monkeypatch):
    pytest.importorskip("dlib")
    pair = load_pair("dlib")
    crops = [align_face(shared / "photos" / f"one_{side}.jpg", "dlib") for side in "ab"]
    detector = type("Never", (), {"find": lambda *_: pytest.fail("looked for again")})
    monkeypatch.setattr(module, "crop_detector", detector)
    found = explain(pair, *crops, "saliency")
    assert [check.by for check in found.checks] == ["landmarks"] * 2
    for crop, attr, shares in zip(crops, found.attributions, found.regions, strict=True):
        own = face_regions("dlib", None, Landmarks(crop.points, crop.crop_outline))
        assert shares == region_shares(attr, own)
        assert shares != region_shares(attr, face_regions("dlib"))


@pytest.mark.real
def test_rates_on_real_crops(shared):
    """Loosely; docs/studies/alignment.py prints them."""
    pytest.importorskip("dlib")
    files = sorted((shared / "data" / "lfw_crops").iterdir())[::8]
    crops = torch.cat([load_image(path) for path in files])
    rolled = F.pad(crops, (8, 0, 0, 0), mode="replicate")[..., :112]

    def passed(images):
        checks = check_crops(images, "arcface")
        return sum(check.passed for check in checks) / len(checks)

    assert passed(crops) >= 0.9
    assert passed(rolled) <= 0.1
    assert passed(crops.flip(2, 3)) <= 0.1
    named = [check.looks for check in check_crops(rolled, "arcface") if check.by == "landmarks"]
    assert sum("px right" in looks for looks in named) > 0.8 * len(named)
