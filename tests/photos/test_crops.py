"""Geometry and resampling against closed forms and slow references; no detector is needed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from captum_face.photos import (
    FIVE_POINTS,
    TEMPLATES,
    Face,
    NoFaceError,
    Photo,
    Template,
    align_face,
    find_faces,
    load_photo,
)
from captum_face.photos._warping import apply, warp
from tests.photos.conftest import Planted, placed, similarity

UPRIGHT = [name for name, template in TEMPLATES.items() if template.margin is None]
OWN = Template("own", (90, 64), {**TEMPLATES["arcface"].resized((64, 64)).points, "chin": (32.0, 63.0)})


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize("degrees", [-90, -37.5, 0, 12, 90])
@pytest.mark.parametrize("size", [None, (224, 224), (112, 96), (60, 150)])
@pytest.mark.parametrize("template", [*UPRIGHT, OWN])
def test_landmarks_lie_at_the_template_and_come_back(template, size, degrees):
    wanted = (TEMPLATES[template] if isinstance(template, str) else template).resized(size)
    face = Face(Photo(noise(600, 500)), **placed(wanted, similarity(degrees, 1.7, 240, 310)))
    there = apply(face.transform(template, size), [*face.landmarks.values()])
    np.testing.assert_allclose(there, [*wanted.points.values()], atol=1e-9)
    back = apply(face.inverse(template, size), there)
    np.testing.assert_allclose(back, [*face.landmarks.values()], atol=1e-9)
    assert face.crop(template, size).shape[-2:] == wanted.size


@pytest.mark.parametrize("size", [(160, 160), (120, 90)])
def test_landmarks_come_back_from_a_crop_along_the_box(size):
    face = Face(Photo(noise(400, 300)), (80.4, 60.2, 190.7, 231.9), five_at(100, 90), mtcnn=True)
    points = np.array([*face.landmarks.values()])
    there = apply(face.transform("facenet", size), points)
    np.testing.assert_allclose(apply(face.inverse("facenet", size), there), points, atol=1e-9)
    # Corners of the box, in whole pixels, are those of the crop; edges of pixels are half a pixel away.
    corners = apply(face.transform("facenet", size), [(80 - 0.5, 60 - 0.5), (190 - 0.5, 231 - 0.5)])
    np.testing.assert_allclose(corners, [(-0.5, -0.5), (size[1] - 0.5, size[0] - 0.5)], atol=1e-9)


def five_at(x: float, y: float, scale: float = 1.0) -> dict[str, tuple[float, float]]:
    points = TEMPLATES["arcface"].points
    return {name: (x + scale * px, y + scale * py) for name, (px, py) in points.items()}


def test_fit_is_the_least_squares_similarity():
    """Against the normal equations, for landmarks that fit no similarity."""
    rng = np.random.default_rng(3)
    for _ in range(5):
        points = rng.normal(0, 40, (5, 2)) + 200
        face = Face(Photo(noise(400, 400)), (0, 0, 9, 9), dict(zip(FIVE_POINTS, points, strict=True)))
        target = np.array([*TEMPLATES["arcface"].points.values()])
        matrix = face.transform("arcface")
        # x' = a x - b y + c, y' = b x + a y + d
        rows = [[x, -y, 1, 0] for x, y in points] + [[y, x, 0, 1] for x, y in points]
        a, b, c, d = np.linalg.lstsq(np.array(rows), target.T.ravel(), rcond=None)[0]
        expected = np.array([[a, -b, c], [b, a, d]])
        if a * a + b * b < 1e-4:  # a mirrored face has no good fit
            continue
        np.testing.assert_allclose(matrix, expected, atol=1e-8)


@pytest.mark.parametrize("degrees", [-90, -45, 0, 20, 90])
def test_map_lands_on_the_pixels_of_the_photo(degrees):
    """A linear map is known everywhere, whatever the interpolation; a spot tells its place."""
    to_photo = similarity(degrees, 2.0, 260, 240)
    photo = Photo(noise(520, 500))
    crop = align_face(photo, "arcface", detector=Planted([placed("arcface", to_photo)]))
    back = np.linalg.inv(np.vstack([to_photo, (0, 0, 1)]))[:2]
    y, x = np.mgrid[:520, :500]
    places = apply(back, np.stack([x, y], -1))
    inside = ((places > 0) & (places < 111)).all(-1)
    assert inside.sum() > 10_000
    for axis in (0, 1):
        ramp = np.mgrid[:112, :112][1 - axis].astype(float)
        drawn = crop.to_photo(ramp, outside=-50)
        assert drawn.shape == (520, 500)
        np.testing.assert_allclose(drawn[inside], places[..., axis][inside], atol=1e-3)
        beyond = ((places < -1) | (places > 112)).any(-1)
        assert (drawn[beyond] == -50).all()
    spot = np.zeros((112, 112))
    spot[90, 30] = 1
    row, column = np.unravel_index(crop.to_photo(spot).argmax(), (520, 500))
    assert np.abs(apply(to_photo, (30, 90)) - (column, row)).max() <= 1
    colours = crop.to_photo(np.stack([spot, 2 * spot, 0 * spot], -1))
    np.testing.assert_allclose(colours[..., 1], 2 * crop.to_photo(spot), atol=1e-6)


@pytest.mark.parametrize("degrees", [-90, 0, 33, 90])
def test_pixels_of_the_photo_land_in_the_crop(degrees):
    """A photo that is linear in x and y is known in every pixel of the crop."""
    to_photo = similarity(degrees, 1.0, 130, 125)
    y, x = np.mgrid[:250, :255]
    photo = Photo(np.stack([x, y, 0 * x], -1).astype(np.uint8))
    crop = align_face(photo, "arcface", detector=Planted([placed("arcface", to_photo)])).image[0] * 255
    v, u = np.mgrid[:112, :112]
    places = apply(to_photo, np.stack([u, v], -1))
    inside = ((places > 1) & (places < (253, 248))).all(-1)
    assert inside.sum() > 5000
    for axis in (0, 1):
        np.testing.assert_allclose(crop[axis].numpy()[inside], places[..., axis][inside], atol=1e-2)
    outside = ((places < -1) | (places > (255, 250))).any(-1)
    assert (crop.numpy()[:, outside] == 0).all()


def test_crop_along_the_box_is_that_of_facenet_pytorch():
    """Which crops whole pixels and resizes them with Pillow."""
    smooth = Image.fromarray(noise(20, 15)).resize((300, 400), Image.Resampling.BICUBIC)
    box = (40.7, 51.2, 250.9, 330.4)
    face = Face(load_photo(smooth), box, five_at(90, 120), mtcnn=True)
    for margin in (0, 20):
        wider = [margin * (box[2] - box[0]) / (160 - margin), margin * (box[3] - box[1]) / (160 - margin)]
        edges = (
            int(max(box[0] - wider[0] / 2, 0)),
            int(max(box[1] - wider[1] / 2, 0)),
            int(min(box[2] + wider[0] / 2, 300)),
            int(min(box[3] + wider[1] / 2, 400)),
        )
        expected = np.asarray(smooth.crop(edges).resize((160, 160), Image.Resampling.BILINEAR)) / 255
        crop = face.crop(replace(TEMPLATES["facenet"], margin=margin))[0].permute(1, 2, 0).numpy()
        difference = np.abs(crop - expected)[2:-2, 2:-2]  # which resize the border in another way
        assert difference.mean() < 0.01, margin
        moved = np.abs(np.roll(crop, 3, 1) - expected)[4:-4, 4:-4]
        assert moved.mean() > 2 * difference.mean()


def test_box_of_other_detectors_is_estimated_from_the_landmarks():
    template = TEMPLATES["facenet"]
    x, y, wide, high = 101.0, 82.0, 74.3, 100.0
    points = {
        name: (x + (px + 0.5) / 160 * wide - 0.5, y + (py + 0.5) / 160 * high - 0.5)
        for name, (px, py) in template.points.items()
    }
    face = Face(Photo(noise(400, 400)), (0, 0, 30, 30), points)
    matrix = face.transform(template)
    # MTCNN's box would be x, y, x + wide, y + high; it is cut to whole pixels.
    corners = apply(matrix, [(101 - 0.5, 82 - 0.5), (175 - 0.5, 182 - 0.5)])
    np.testing.assert_allclose(corners, [(-0.5, -0.5), (159.5, 159.5)], atol=1.5)
    turned = {**points, "nose": (points["nose"][0] + 5, points["nose"][1])}
    moved = replace(face, landmarks=turned).inverse(template)[:, 2] - face.inverse(template)[:, 2]
    assert -8 <= moved[0] <= -5
    assert moved[1] == 0
    with pytest.raises(ValueError, match="landmarks at different places"):
        replace(face, landmarks=dict.fromkeys(points, (5.0, 5.0))).transform(template)


def slow_area(pixels: np.ndarray, factor: int) -> np.ndarray:
    height, width = (side // factor for side in pixels.shape[:2])
    result = np.zeros((height, width, 3))
    for row in range(height):
        for column in range(width):
            tile = pixels[row * factor : (row + 1) * factor, column * factor : (column + 1) * factor]
            result[row, column] = tile.astype(np.float64).mean((0, 1))
    return result


def test_large_photos_are_antialiased():
    """A chequerboard of single pixels comes out grey, and pictures as their means over areas."""
    factor, side = 8, 112 * 8
    to_photo = similarity(0, factor, (factor - 1) / 2, (factor - 1) / 2)
    board = (np.indices((side, side)).sum(0) % 2 * 255).astype(np.uint8)
    photo = Photo(np.repeat(board[..., None], 3, 2))
    crop = align_face(photo, "arcface", detector=Planted([placed("arcface", to_photo)])).image
    np.testing.assert_allclose(crop.numpy(), 0.5, atol=0.02)
    large = np.asarray(Image.fromarray(noise(14, 14)).resize((side, side), Image.Resampling.BICUBIC))
    fine = np.clip(large.astype(int) + noise(side, side, 1) // 2 - 64, 0, 255).astype(np.uint8)
    crop = align_face(Photo(fine), "arcface", detector=Planted([placed("arcface", to_photo)])).image
    expected = slow_area(fine, factor)
    difference = np.abs(crop[0].permute(1, 2, 0).numpy() * 255 - expected)[2:-2, 2:-2]
    sampled = np.abs(fine[4::factor, 4::factor] - expected)[2:-2, 2:-2]
    assert difference.mean() < 4
    assert sampled.mean() > 5 * difference.mean()


def test_warp_sees_no_more_than_it_draws():
    """The part that is drawn is that of a warp of the whole."""
    image = np.random.default_rng(0).random((30, 40))
    matrix = similarity(30, 0.8, 100, 50)
    small = warp(image, matrix, (90, 150), outside=2)
    large = warp(image, np.add(matrix, [[0, 0, 20], [0, 0, 30]]), (200, 300), outside=2)
    np.testing.assert_allclose(large[30:120, 20:170], small, atol=1e-5)
    assert (warp(image, similarity(0, 1, 500, 0), (20, 20), outside=3) == 3).all()


TURNED_BACK = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_gives_the_same_crop(orientation, tmp_path):
    upright = Image.fromarray(noise(140, 120))
    stored = upright if orientation == 1 else upright.transpose(TURNED_BACK[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.png", exif=exif)
    detector = Planted([placed("arcface", similarity(10, 0.9, 15, 10))])
    crop = align_face(tmp_path / "a.png", detector=detector)
    assert crop.photo_size == (140, 120)
    torch.testing.assert_close(crop.image, align_face(upright, detector=detector).image, rtol=0, atol=0)


def test_kinds_of_photos(tmp_path):
    """Grey, transparent, with a palette, of 16 bits, for print, and an array of OpenCV."""
    grey = np.asarray(Image.fromarray(noise(12, 10)).convert("L").resize((100, 120)))
    coloured = np.asarray(Image.fromarray(noise(12, 10)).resize((100, 120)))
    detector = Planted([placed("arcface", similarity(0, 0.8, 5, 10))])

    def crop(image, **options):
        return align_face(image, detector=detector, **options).image

    expected = crop(Photo(np.repeat(grey[..., None], 3, 2)))
    tolerance = {"rtol": 0, "atol": 1.01 / 255}
    torch.testing.assert_close(crop(Image.fromarray(grey)), expected, **tolerance)
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "16.png")
    torch.testing.assert_close(crop(tmp_path / "16.png"), expected, **tolerance)
    few = Image.fromarray(grey // 64 * 64)
    torch.testing.assert_close(
        crop(few.convert("P")), crop(Photo(np.repeat((grey // 64 * 64)[..., None], 3, 2))), **tolerance
    )
    expected = crop(Photo(coloured))
    torch.testing.assert_close(crop(Image.fromarray(coloured).convert("RGBA")), expected, **tolerance)
    torch.testing.assert_close(crop(coloured[..., ::-1], channels="bgr"), expected, **tolerance)
    torch.testing.assert_close(crop(torch.tensor(coloured / 255).permute(2, 0, 1)), expected, **tolerance)
    printed = Image.fromarray(coloured).convert("CMYK")
    printed.save(tmp_path / "print.jpg", quality=100, subsampling=0)
    torch.testing.assert_close(crop(tmp_path / "print.jpg"), expected, rtol=0, atol=0.06)


def test_size_is_refused_before_pixels_are_read(tmp_path, monkeypatch):
    Image.new("L", (10_000, 10_000)).save(tmp_path / "large.png")
    detector = Planted([placed("arcface", similarity(0, 1, 5, 10))])
    with monkeypatch.context() as patch:
        patch.setattr("captum_face.photos.photo.load_pixels", lambda *a, **k: pytest.fail("was read"))
        with pytest.raises(
            ValueError, match=r"at most 64 megapixels, got large.png with 100.0.*max_pixels=1"
        ):
            align_face(tmp_path / "large.png", detector=detector)
    crop = align_face(tmp_path / "large.png", detector=detector, max_pixels=100_000_000)
    assert crop.photo_size == (10_000, 10_000)
    Image.new("L", (1, 1)).save(tmp_path / "pixel.png")
    with pytest.raises(ValueError, match="16 pixels or more in rows and columns, got pixel.png with 1 x 1"):
        align_face(tmp_path / "pixel.png", detector=detector)


@pytest.mark.parametrize("content", [b"", b"hello", "cut"])
def test_damaged_files(content, tmp_path):
    path = tmp_path / "a.jpg"
    if content == "cut":
        Image.fromarray(noise(200, 200)).save(path)
        content = path.read_bytes()[:3000]
    path.write_bytes(content)
    with pytest.raises(ValueError, match="a.jpg"):
        align_face(path, detector=Planted([placed("arcface", similarity(0, 1, 5, 10))]))


def test_photo_that_lies_on_its_side_is_told_so():
    class Upright:
        """Finds a face where the first row is white."""

        name = "a test"

        def find(self, photo):
            return [Face(photo, (0, 0, 9, 9), five_at(0, 0))] if photo.pixels[0].min() == 255 else []

    pixels = np.zeros((200, 150, 3), np.uint8)
    pixels[:, -1] = 255
    with pytest.raises(NoFaceError, match="with the photo turned by 90 degrees anticlockwise: turn it so"):
        align_face(Photo(pixels), detector=Upright())
    with pytest.raises(NoFaceError, match="turned by 180 degrees: turn it so"):
        align_face(Photo(np.rot90(pixels, -1).copy()), detector=Upright())
    with pytest.raises(NoFaceError, match="turned by 90 degrees clockwise: turn it so"):
        align_face(Photo(np.rot90(pixels, 2).copy()), detector=Upright())
    with pytest.raises(NoFaceError, match=r"found none: .*Turn the photo upright.*LandmarkFile"):
        align_face(Photo(np.zeros((200, 150, 3), np.uint8)), detector=Upright())


def _swapped(points):
    names = {"left_eye": "right_eye", "mouth_left": "mouth_right"}
    names |= {theirs: ours for ours, theirs in names.items()}
    return {names.get(name, name): point for name, point in points.items()}


@pytest.mark.parametrize("degrees", [-120, 0, 60, 180])
def test_landmarks_of_the_persons_own_left_are_refused(degrees):
    face = placed("arcface", similarity(degrees, 2, 300, 300))
    assert find_faces(noise(600, 600), Planted([face]), channels="rgb")
    for wrong in (
        {**face, "landmarks": _swapped(face["landmarks"])},
        {**face, "landmarks": {name: (y, x) for name, (x, y) in face["landmarks"].items()}},
    ):
        with pytest.raises(ValueError, match=r"photo from Planted, got a face in whose .* right are swapped"):
            find_faces(noise(600, 600), Planted([wrong]), channels="rgb")


def test_landmarks_of_a_face_from_the_side_are_not_swapped():
    for turn in np.linspace(1, -0.1, 12):  # the far eye comes near, and a little beyond
        points = {
            name: (300 + turn * (x - 56), 2 * y) for name, (x, y) in TEMPLATES["arcface"].points.items()
        }
        face = {"box": (200, 50, 400, 250), "landmarks": points}
        assert find_faces(noise(600, 600), Planted([face]), channels="rgb")


def test_landmarks_as_shares_of_the_photo_are_refused():
    points = {name: (x / 112, y / 112) for name, (x, y) in TEMPLATES["arcface"].points.items()}
    face = {"box": (0.1, 0.1, 0.9, 0.9), "landmarks": points}
    with pytest.raises(ValueError, match="multiply them by its width and height"):
        find_faces(noise(600, 600), Planted([face]), channels="rgb")


def test_templates_that_no_face_fits_are_refused():
    points = dict(TEMPLATES["arcface"].points)
    with pytest.raises(ValueError, match="got own, in whose landmarks left and right are swapped"):
        Template("own", (112, 112), _swapped(points))
    with pytest.raises(ValueError, match="got own, whose landmarks all lie within 2 pixels"):
        Template("own", (112, 112), {name: (x / 112, y / 112) for name, (x, y) in points.items()})
