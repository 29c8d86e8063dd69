from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from captum_face import PairSimilarity
from captum_face.data import check_faces, render_faces, synthetic
from captum_face.data.alignment import LIMIT
from captum_face.data.images import load_image


def shares_passed(images):
    return sum(check.passed for check in check_faces(images)) / len(images)


@pytest.fixture(scope="module")
def faces():
    return render_faces(24, seed=3)


def moved(images, right=0, down=0):
    """By whole pixels, continued by the border."""
    side = images.shape[-1]
    pad = [max(right, 0), max(-right, 0), max(down, 0), max(-down, 0)]
    padded = F.pad(images, pad, mode="replicate")
    top, left = max(-down, 0), max(-right, 0)
    return padded[..., top : top + side, left : left + side]


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_rendered_faces_pass(strength):
    assert shares_passed(render_faces(24, seed=8, strength=strength)) == 1


def test_faces_of_the_demo_pass():
    two = synthetic.pair(seed=0, changed=("brows", "eyes", "mouth"))
    checks = check_faces(torch.cat([two.image_a, two.image_b]))
    assert all(check.passed and check.figure >= LIMIT and not check.looks for check in checks)
    assert "looks like a face in ArcFace's alignment" in checks[0].message("a.png")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: moved(x, right=16), "moved by about 16 of 112 px right"),
        (lambda x: moved(x, right=-16), "moved by about 16 of 112 px left"),
        (lambda x: moved(x, down=16), "moved by about 16 of 112 px down"),
        (lambda x: moved(x, down=-16), "moved by about 16 of 112 px up"),
        (lambda x: x.rot90(1, (2, 3)), "turned by about 90 degrees anticlockwise"),
        (lambda x: x.rot90(-1, (2, 3)), "turned by about 90 degrees clockwise"),
        (lambda x: x.flip(2, 3), "upside down"),
        (lambda x: x.flip(2), ""),
    ],
)
def test_misplaced_faces_fail_and_most_are_told_how(faces, change, words):
    checks = check_faces(change(faces))
    failed = [check for check in checks if not check.passed]
    assert len(failed) >= 0.9 * len(checks)
    assert sum(words in check.looks for check in failed) >= 0.6 * len(failed)
    assert "does not look like a face in ArcFace's alignment: " in failed[0].message("a.png")


@pytest.mark.parametrize(
    "image",
    [
        torch.zeros(1, 3, 112, 112),
        torch.full((1, 1, 112, 112), 0.5),
        torch.linspace(0, 1, 112).expand(1, 3, 112, 112),
        torch.linspace(0, 1, 112)[:, None].expand(1, 3, 112, 112),
        torch.rand(1, 3, 112, 112, generator=torch.Generator().manual_seed(0)),
        ((torch.arange(112)[:, None] // 8 + torch.arange(112) // 8) % 2).float().expand(1, 3, 112, 112),
    ],
    ids=["black", "grey", "ramp", "sky", "noise", "chessboard"],
)
def test_images_without_a_face_fail(image):
    (check,) = check_faces(image)
    assert not check.passed
    assert check.figure < LIMIT


@pytest.mark.parametrize("size", [(56, 56), (160, 160), (250, 250)])
def test_any_size_grey_and_dtype(faces, size):
    resized = F.interpolate(faces, size, mode="bilinear", antialias=True)
    for images in (resized, resized.mean(1, keepdim=True), resized.double()):
        assert shares_passed(images) == 1
        assert shares_passed(images.flip(2)) <= 0.1


def test_narrow_crops_of_the_same_alignment_pass(faces):
    assert shares_passed(faces[..., 8:104]) == 1


def test_the_same_image_gives_the_same_figure_in_any_batch(faces):
    whole = check_faces(faces)
    for index in (0, 5):
        assert check_faces(faces[[index]])[0].figure == pytest.approx(whole[index].figure, abs=1e-5)


def test_light_and_contrast_change_little(faces):
    figures = [check.figure for check in check_faces(faces)]
    for changed in (0.5 * faces, 0.4 + 0.4 * faces):
        for figure, check in zip(figures, check_faces(changed), strict=True):
            assert check.figure == pytest.approx(figure, abs=0.1)


def test_images_too_small_to_show_a_face():
    (check,) = check_faces(torch.rand(1, 3, 20, 24))
    assert check.looks == "it has only 24 x 20 pixels"


def test_no_check_without_an_alignment(faces):
    assert check_faces(faces, None) == ()
    with pytest.raises(TypeError, match="expected images as a torch.Tensor"):
        check_faces("a.png")


@pytest.mark.parametrize(
    ("options", "alignment"),
    [
        ({}, "arcface"),
        ({"preprocess": "imagenet"}, "arcface"),
        ({"preprocess": "facenet"}, "facenet"),
        ({"preprocess": "facenet", "alignment": "arcface"}, "arcface"),
        ({"alignment": None}, None),
    ],
)
def test_alignment_of_a_pair(options, alignment):
    assert PairSimilarity(torch.nn.Flatten(), **options).alignment == alignment


def test_unknown_alignment():
    with pytest.raises(ValueError, match="did you mean 'arcface'"):
        PairSimilarity(torch.nn.Flatten(), alignment="arcfaces")


@pytest.mark.real
def test_rates_on_real_crops(shared):
    """Loosely; docs/studies/alignment.py prints them."""
    files = sorted((shared / "data" / "lfw_crops").iterdir())[::5]
    crops = torch.cat([load_image(path) for path in files])
    assert shares_passed(crops) > 0.85
    assert shares_passed(crops.flip(3)) > 0.85
    for changed in (moved(crops, down=16), moved(crops, right=16), crops.rot90(1, (2, 3)), crops.flip(2, 3)):
        assert shares_passed(changed) < 0.1
    photos = [load_image(path) for path in sorted((shared / "photos").iterdir())]
    assert not any(check_faces(photo)[0].passed for photo in photos)


def test_image_size_of_a_pair():
    flat = torch.nn.Flatten()
    assert PairSimilarity(flat).image_size is None
    assert PairSimilarity(flat, preprocess="facenet").image_size == (160, 160)
    assert PairSimilarity(flat, preprocess="imagenet").image_size is None
    pair = PairSimilarity(flat, preprocess="arcface", image_size=128)
    assert pair.image_size == pair.template.size == (128, 128)
    assert pair.template.points["left_eye"] == pytest.approx((38.2946 * 128 / 112, 51.6963 * 128 / 112))
    flat.input_size = (112, 96)
    assert PairSimilarity(flat, preprocess="facenet").image_size == (112, 96)
    flat.input_size = (3, 112, 112)  # of something else
    assert PairSimilarity(flat).image_size is None
    for wrong, error in ((0, ValueError), ((112,), TypeError), ("112", TypeError), ((1.5, 2), ValueError)):
        with pytest.raises(error, match="image_size"):
            PairSimilarity(torch.nn.Flatten(), image_size=wrong)
