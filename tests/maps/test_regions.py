from __future__ import annotations

import pytest
import torch

from captum_face.maps.regions import LANDMARKS, face_regions, region_shares


def test_each_pixel_is_in_exactly_one_region():
    count = torch.stack(list(face_regions().values())).sum(0)
    assert count.eq(1).all()


def test_landmarks_lie_in_their_regions():
    for landmark, region in (
        ("left_eye", "left_eye"),
        ("right_eye", "right_eye"),
        ("nose", "nose"),
        ("mouth_left", "mouth"),
        ("mouth_right", "mouth"),
    ):
        x, y = (round(v) for v in LANDMARKS[landmark])
        assert face_regions()[region][y, x], landmark


@pytest.mark.parametrize(
    ("x", "y", "region"),
    [
        (38, 52, "left_eye"), (73, 52, "right_eye"), (38, 40, "left_brow"), (73, 40, "right_brow"),
        (56, 62, "nose"), (56, 71, "nose"), (56, 92, "mouth"), (56, 82, "left_cheek"),
        (57, 82, "right_cheek"), (24, 62, "left_cheek"), (88, 62, "right_cheek"), (28, 80, "left_cheek"),
        (84, 80, "right_cheek"), (56, 20, "forehead"), (56, 45, "forehead"), (56, 108, "chin"),
        (42, 102, "chin"), (70, 102, "chin"), (3, 3, "surroundings"), (108, 108, "surroundings"),
        (6, 60, "surroundings"),
    ],
)  # fmt: skip
def test_places_of_a_face(x, y, region):
    inside = [name for name, mask in face_regions().items() if mask[y, x]]
    assert inside == [region]


def test_sides_are_the_viewers():
    columns = torch.arange(112.0)
    for part in ("eye", "brow", "cheek"):
        left, right = (face_regions()[f"{side}_{part}"].float() for side in ("left", "right"))
        assert (left.sum(0) @ columns) / left.sum() < 56 < (right.sum(0) @ columns) / right.sum()


def test_shares():
    attr = torch.zeros(1, 3, 112, 112)
    regions = face_regions()
    attr[:, :, regions["mouth"]] = 2.0
    attr[:, :, regions["nose"]] = -1.0
    attr[:, :, regions["chin"]] = -1.0
    shares = region_shares(attr)
    assert shares["mouth"]["similar"] == pytest.approx(1)
    nose, chin = (int(regions[name].sum()) for name in ("nose", "chin"))
    assert shares["nose"]["dissimilar"] == pytest.approx(nose / (nose + chin))
    assert sum(share["dissimilar"] for share in shares.values()) == pytest.approx(1)
    assert sum(share["area"] for share in shares.values()) == pytest.approx(1)
    assert shares["mouth"]["area"] == pytest.approx(int(regions["mouth"].sum()) / 112**2)
    assert all(share["similar"] == 0 for share in region_shares(0 * attr).values())


@pytest.mark.parametrize("shape", [(1, 3, 112, 100), (2, 3, 112, 112), (1, 160, 160)])
def test_only_one_aligned_crop(shape):
    with pytest.raises(ValueError, match="112x112"):
        region_shares(torch.zeros(shape))
