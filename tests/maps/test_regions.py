from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from captum_face.maps.landmarks import Landmarks
from captum_face.maps.regions import REGIONS, face_regions, region_shares
from captum_face.maps.templates import FIVE_POINTS, TEMPLATES, Template


def turned(points, degrees, scale, shift):
    """Points about (0, 0), by a rotation matrix."""
    angle = math.radians(degrees)
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return scale * np.asarray(points, float) @ rotation.T + shift


def region_at(masks, x, y):
    return next(name for name, mask in masks.items() if mask[round(y), round(x)])


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("size", [None, (112, 96), (64, 64)])
def test_each_pixel_is_in_exactly_one_region(template, size):
    masks = face_regions(template, size)
    assert tuple(masks) == REGIONS
    assert torch.stack(list(masks.values())).sum(0).eq(1).all()
    assert masks["nose"].shape == (size or TEMPLATES[template].size)


@pytest.mark.parametrize("template", TEMPLATES)
def test_landmarks_lie_in_their_regions(template):
    masks, points = face_regions(template), TEMPLATES[template].points
    points = dict(points) | {"mouth": np.mean([points["mouth_left"], points["mouth_right"]], axis=0)}
    for name in ("left_eye", "right_eye", "nose", "mouth"):
        assert region_at(masks, *points[name]) == name


@pytest.mark.parametrize(
    ("x", "y", "region"),
    [
        (38, 52, "left_eye"), (73, 52, "right_eye"), (36, 40, "left_eyebrow"), (75, 40, "right_eyebrow"),
        (56, 62, "nose"), (56, 73, "nose"), (56, 92, "mouth"), (46, 84, "mouth_area"),
        (56, 103, "mouth_area"),
        (26, 66, "left_cheek"), (86, 66, "right_cheek"), (30, 80, "left_cheek"), (82, 80, "right_cheek"),
        (56, 20, "forehead"), (56, 40, "forehead"), (56, 110, "chin_jawline"), (36, 104, "chin_jawline"),
        (76, 104, "chin_jawline"), (3, 3, "surroundings"), (108, 108, "surroundings"), (12, 60, "left_ear"),
        (99, 60, "right_ear"), (3, 60, "surroundings"),
    ],
)  # fmt: skip
def test_places_of_a_face(x, y, region):
    assert region_at(face_regions(), x, y) == region


def test_sides_are_the_viewers():
    columns = torch.arange(112.0)
    for part in ("eye", "eyebrow", "cheek", "ear"):
        left, right = (face_regions()[f"{side}_{part}"].float() for side in ("left", "right"))
        assert (left.sum(0) @ columns) / left.sum() < 56 < (right.sum(0) @ columns) / right.sum()


@pytest.mark.parametrize("degrees", [0, 30, 90, 180, -120])
@pytest.mark.parametrize("outline", [False, True])
def test_regions_follow_the_landmarks(degrees, outline):
    """The same face turned, resized and moved has its regions turned, resized and moved."""
    places = TEMPLATES["arcface"].points
    still = face_regions("arcface", (112, 112))
    shift, side = np.array([150.0, 160.0]), 320
    middle = np.array([56.0, 70.0])
    moved = Landmarks(
        {
            name: tuple(turned(np.array(point) - middle, degrees, 1.5, shift))
            for name, point in places.items()
        },
        turned(Landmarks(places).face - middle, degrees, 1.5, shift) if outline else None,
    )
    masks = face_regions("arcface", (side, side), moved)
    assert torch.stack(list(masks.values())).sum(0).eq(1).all()
    generator = np.random.default_rng(0)
    same = []
    for x, y in generator.integers(2, 110, (300, 2)):
        at = turned(np.array([x, y]) - middle, degrees, 1.5, shift)
        same.append(region_at(masks, *at) == region_at(still, x, y))
    assert np.mean(same) > 0.97  # but for pixels on borders


def test_one_part_that_moves_moves_its_region_alone():
    outline = Landmarks(TEMPLATES["arcface"].points).face
    before = face_regions(landmarks=Landmarks(TEMPLATES["arcface"].points, outline))
    outline[48:68] += (0, 4)  # the lips
    after = face_regions(landmarks=Landmarks(TEMPLATES["arcface"].points, outline))

    def middle(mask):
        return mask.float().sum(1) @ torch.arange(112.0) / mask.sum()

    assert middle(after["mouth"]) - middle(before["mouth"]) == pytest.approx(4, abs=0.2)
    for name in ("left_eye", "right_eyebrow", "nose", "forehead", "left_ear"):
        assert torch.equal(before[name], after[name])


def test_a_template_of_ones_own():
    own = Template(
        "own", (100, 80), {n: (x - 16, y - 6) for n, (x, y) in TEMPLATES["arcface"].points.items()}
    )
    assert torch.equal(face_regions(own)["nose"], face_regions()["nose"][6:106, 16:96])


def test_bad_landmarks():
    points = dict(TEMPLATES["arcface"].points)
    with pytest.raises(ValueError, match="expected the landmarks left_eye, .*, got none for nose"):
        Landmarks({name: point for name, point in points.items() if name != "nose"})
    with pytest.raises(ValueError, match=r"expected 68 points \(68, 2\) as outline, got \(5, 2\)"):
        Landmarks(points, np.zeros((5, 2)))
    with pytest.raises(ValueError, match="expected finite landmarks at different places"):
        Landmarks(dict.fromkeys(FIVE_POINTS, (3.0, 4.0)))
    with pytest.raises(ValueError, match="expected finite landmarks"):
        Landmarks(points | {"nose": (math.nan, 1.0)})
    with pytest.raises(ValueError, match="did you mean 'arcface'"):
        face_regions("arcfaces")


def test_shares():
    attr = torch.zeros(1, 3, 112, 112)
    regions = face_regions()
    attr[:, :, regions["mouth"]] = 2.0
    attr[:, :, regions["nose"]] = -1.0
    attr[:, :, regions["chin_jawline"]] = -1.0
    shares = region_shares(attr)
    assert shares["mouth"]["similar"] == pytest.approx(1)
    nose, chin = (int(regions[name].sum()) for name in ("nose", "chin_jawline"))
    assert shares["nose"]["dissimilar"] == pytest.approx(nose / (nose + chin))
    assert sum(share["dissimilar"] for share in shares.values()) == pytest.approx(1)
    assert sum(share["area"] for share in shares.values()) == pytest.approx(1)
    assert shares["mouth"]["area"] == pytest.approx(int(regions["mouth"].sum()) / 112**2)
    assert all(share["similar"] == 0 for share in region_shares(0 * attr).values())
    assert region_shares(attr, {"all": torch.ones(112, 112, dtype=torch.bool)})["all"]["similar"] == 1


def test_one_map_and_masks_of_its_size():
    with pytest.raises(ValueError, match="expected the map of one aligned face"):
        region_shares(torch.zeros(2, 3, 112, 112))
    with pytest.raises(
        ValueError, match=r"expected masks of 112 x 100 pixels as the map has, got \(112, 112\)"
    ):
        region_shares(torch.zeros(1, 3, 112, 100), face_regions())
