"""Explanations of photos: rendered faces at known places of larger pictures, found by a planted detector."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from captum_face import PairSimilarity, explain
from captum_face.data import synthetic
from captum_face.maps.templates import TEMPLATES
from captum_face.models import load_pair
from captum_face.photos import Face, NoFaceError, align_face, find_faces, load_photo
from captum_face.results.explanation import Explanation

pytest.importorskip("skimage", reason="needs the extra photos")
ARCFACE = TEMPLATES["arcface"]


def matrix_of(angle: float, scale: float, x: float, y: float) -> np.ndarray:
    """From a crop to a photo: turned by degrees, enlarged, and its first pixel at (x, y)."""
    c, s = scale * math.cos(math.radians(angle)), scale * math.sin(math.radians(angle))
    return np.array([[c, -s, x], [s, c, y]])


def put(photo: np.ndarray, crop: np.ndarray, matrix: np.ndarray) -> None:
    """Draws a crop into a photo; Pillow's transform, which is none of the package's."""
    back = np.linalg.inv(np.vstack([matrix, (0, 0, 1)]))[:2]
    back[:, 2] += 0.5 - back[:, :2].sum(1) / 2  # Pillow counts from the edges of pixels
    size, how = photo.shape[1::-1], (Image.Transform.AFFINE, back.flatten(), Image.Resampling.BICUBIC)
    drawn = np.asarray(Image.fromarray(crop).transform(size, *how))
    inside = np.asarray(Image.new("L", crop.shape[1::-1], 255).transform(size, *how)) == 255
    photo[inside] = drawn[inside]


class Planted:
    """Answers with faces at known places."""

    name = "planted"

    def __init__(self, *matrices: np.ndarray) -> None:
        self.matrices = matrices

    def find(self, photo):
        faces = []
        for matrix in self.matrices:
            points = {
                name: tuple(matrix[:, :2] @ point + matrix[:, 2]) for name, point in ARCFACE.points.items()
            }
            corners = [matrix[:, :2] @ corner + matrix[:, 2] for corner in ((20, 20), (92, 105))]
            (left, top), (right, bottom) = np.min(corners, 0), np.max(corners, 0)
            faces.append(Face(photo, (left, top, right, bottom), points))
        return faces


@pytest.fixture(scope="module")
def model():
    return load_pair("synthetic")


@pytest.fixture(scope="module")
def people():
    found = synthetic.pair(seed=1)
    return [found.image_a, found.image_b, synthetic.pair(seed=2).image_a]


def as_bytes(crop: torch.Tensor) -> np.ndarray:
    return (crop[0] * 255).round().byte().permute(1, 2, 0).numpy()


@pytest.fixture
def photo(people, tmp_path):
    """A photo of two people, the first smaller than the second, and the detector that knows where."""
    places = matrix_of(-20, 1.4, 30, 90), matrix_of(12, 2.2, 320, 40)
    pixels = np.full((360, 640, 3), 90, np.uint8)
    for crop, place in zip((people[0], people[2]), places, strict=True):
        put(pixels, as_bytes(crop), place)
    path = tmp_path / "two.png"
    Image.fromarray(pixels).save(path)
    return path, Planted(*places)


def test_a_photo_gives_the_score_of_its_crop(model, people, photo):
    path, detector = photo
    of_crops = explain(model, people[0], people[1])
    of_photo = explain(model, path, people[1], detector=detector, face_a=1)
    assert of_photo.score == pytest.approx(of_crops.score, abs=0.03)
    assert of_photo.images[0].shape == (1, 3, 112, 112)
    assert (of_photo.images[0] - people[0]).abs().mean() < 0.02
    maps = torch.stack([of_crops.maps[0].flatten(), of_photo.maps[0].flatten()])
    assert torch.corrcoef(maps)[0, 1] > 0.8
    assert of_photo.crops[1] is None
    assert of_photo.names == ("two.png", "image B")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 0),
        ({"face": 1}, 1),
        ({"face_a": 1}, 1),
        ({"face": (100, 170)}, 1),
        ({"face_a": (500, 170)}, 0),
        ({"face": 1, "face_a": 0}, 0),
    ],
)
def test_one_of_several_faces(model, people, photo, options, expected):
    path, detector = photo
    explanation = explain(model, path, people[1], detector=detector, **options)
    assert explanation.crops[0].chosen == expected
    closest = [(explanation.images[0] - people[i]).abs().mean().item() for i in (2, 0)]
    assert int(np.argmin(closest)) == expected
    remark = explanation.remarks["faces_a"]
    assert ("the largest" in remark) == (expected == 0)
    assert ("no other was asked for" in remark) == (not options)


def test_face_is_for_photos_of_several(model, people, photo, tmp_path):
    """One of a single face beside a group needs no number."""
    path, detector = photo
    single = tmp_path / "single.png"
    place = matrix_of(0, 2, 20, 30)
    pixels = np.zeros((300, 300, 3), np.uint8)
    put(pixels, as_bytes(people[1]), place)
    Image.fromarray(pixels).save(single)

    class Both:
        def find(self, picture):
            return (Planted(place) if picture.name == "single.png" else detector).find(picture)

    explanation = explain(model, path, single, face=1, detector=Both())
    assert [crop.chosen for crop in explanation.crops] == [1, 0]
    with pytest.raises(ValueError, match="number from 0 to 0, as single.png shows 1, got 1"):
        explain(model, path, single, face_b=1, detector=Both())


def test_faces_and_crops_are_images(model, people, photo):
    path, detector = photo
    expected = explain(model, path, people[1], detector=detector, face_a=1)
    face = find_faces(path, detector)[1]
    crop = align_face(path, detector=detector, face=1)
    for given in (face, crop):
        explanation = explain(model, given, people[1])
        assert torch.equal(explanation.maps[0], expected.maps[0])
        assert explanation.names[0] == "two.png"
    with pytest.raises(ValueError, match=r"expected a crop for the template arcface in \(112, 112\).*dlib"):
        explain(model, align_face(path, "dlib", detector=detector), people[1])
    with pytest.raises(ValueError, match="face that is chosen already"):
        explain(model, face, people[1], face_a=1)


def test_what_is_aligned(model, people, photo, tmp_path):
    path, detector = photo
    crop = tmp_path / "crop.png"
    Image.fromarray(as_bytes(people[1])).save(crop)
    found = explain(model, crop, crop, detector=detector)
    assert found.crops == (None, None)
    assert torch.equal(found.images[0], (people[1] * 255).round() / 255)
    whole = Planted(matrix_of(0, 1, 0, 0))
    found = explain(model, crop, crop, detector=whole, align="always")
    torch.testing.assert_close(found.images[0], (people[1] * 255).round() / 255)
    assert explain(model, crop, people[1], detector=whole, align="always").crops[1].photo_size == (112, 112)
    with pytest.raises(ValueError, match="images of the same channels and size"):
        explain(model, path, crop, align="never")
    with pytest.raises(ValueError, match="expected face=1 with a photo"):
        explain(model, crop, crop, face=1)
    with pytest.raises(ValueError, match="expected face=1 with a photo"):
        explain(model, crop, path, face_a=1, detector=detector)
    unknown = PairSimilarity(model.embedding_model, alignment=None)
    with pytest.raises(ValueError, match="expected a model whose alignment is known with align='always'"):
        explain(unknown, path, path, align="always")
    with pytest.raises(ValueError, match="did you mean 'never'"):
        explain(model, path, path, align="nevr")


def test_no_face_says_what_was_tried(model, people, photo):
    class Blind:
        def find(self, picture):
            return []

        def tried(self, picture):
            return "it looked with closed eyes"

    with pytest.raises(
        NoFaceError, match=r"expected a face in two.png, found none: it looked with closed eyes"
    ):
        explain(model, photo[0], people[1], detector=Blind())


def test_warnings_come_with_the_figure(model, people, tmp_path):
    """A small face, and one that the border cuts."""
    pixels = np.full((200, 200, 3), 90, np.uint8)
    small, cut = matrix_of(0, 0.5, 20, 20), matrix_of(0, 1.5, 90, 60)
    for place in (small, cut):
        put(pixels, as_bytes(people[0]), place)
    path = tmp_path / "p.png"
    Image.fromarray(pixels).save(path)
    found = explain(model, path, people[1], detector=Planted(small))
    eyes = ARCFACE.eye_distance
    assert found.remarks["small_a"].startswith(
        f"the face in p.png is small: {eyes / 2:.0f} pixels between the eyes, where the model's crop has "
        f"{eyes:.0f}"
    )
    found = explain(model, path, people[1], detector=Planted(cut))
    right, bottom = 90 + 1.5 * 92, 60 + 1.5 * 105
    share = 1 - (200 - 90 - 1.5 * 20) * (200 - 60 - 1.5 * 20) / ((right - 120) * (bottom - 90))
    assert f"the border of p.png cuts the face: {share:.0%} of it" in found.remarks["cut_a"]
    assert (found.images[0][..., -1] == 0).all()
    for figure in (found.plot(), found.on_photos()):
        assert "the border of p.png cuts the face" in " ".join(figure.get_suptitle().split())


def test_saved_and_loaded(model, people, photo, tmp_path):
    path, detector = photo
    explanation = explain(model, path, people[1], detector=detector, face=1)
    paths = explanation.save(tmp_path / "one")
    assert paths["photos"].name.endswith(".fggb.photos.png")
    for entry in (tmp_path / "one", paths["photos"], paths["figure"]):
        loaded = Explanation.load(entry)
        again = loaded.save(tmp_path / "two")
        for kind, first in paths.items():
            assert first.read_bytes() == again[kind].read_bytes(), kind
    for one, other in zip(explanation.photo_maps(), loaded.photo_maps(), strict=True):
        np.testing.assert_array_equal(one, other)
    summary = json.loads(paths["summary"].read_text())
    assert summary["photos"]["image_b"] is None
    assert summary["photos"]["image_a"]["chosen"] == 1
    with np.load(paths["maps"]) as arrays:
        assert arrays["photo_a"].shape == (360, 640, 3)
    damaged = summary | {"photos": {"image_a": {"photo": "two.png"}, "image_b": None}}
    paths["summary"].write_text(json.dumps(damaged))
    with pytest.raises(ValueError, match="as the photo of an image; they were changed or damaged"):
        Explanation.load(paths["summary"])


def test_maps_lie_on_the_face(model, people, photo):
    path, detector = photo
    explanation = explain(model, path, people[1], detector=detector, face=1)
    found, nothing = explanation.photo_maps()
    assert nothing is None
    assert found.shape == (360, 640)
    # As many pixels as the face is enlarged to: 1.4 times in both directions.
    own = explanation.maps[0].abs().sum().item()
    assert np.abs(found).sum() == pytest.approx(1.4**2 * own, rel=0.05)
    strongest = np.unravel_index(int(explanation.maps[0].abs().argmax()), (112, 112))
    y, x = np.unravel_index(np.abs(found).argmax(), found.shape)
    place = matrix_of(-20, 1.4, 30, 90)
    expected = place[:, :2] @ strongest[::-1] + place[:, 2]
    assert np.abs(expected - (x, y)).max() < 2


def test_figure_on_photos(model, people, photo, tmp_path):
    path, detector = photo
    explanation = explain(model, path, people[1], detector=detector, face=1)
    figure = explanation.on_photos(title="mine")
    assert figure.get_suptitle() == "mine"
    whole = next(axis for axis in figure.axes if axis.get_ylabel() == "two.png")
    assert [text.get_text() for text in whole.texts] == ["0", "1"]
    assert len(whole.patches) == 2  # the frame of the crop, and the other face
    crops = explain(model, *people[:2])
    with pytest.raises(ValueError, match="draw them with plot"):
        crops.on_photos()
    with pytest.raises(ValueError, match="draw them with plot"):
        crops.save(tmp_path / "none", on_photos=True)
    assert not list((tmp_path / "none").glob("*"))
    assert "photos" not in explanation.save(tmp_path / "some", on_photos=False)


def test_a_detector_that_answers_nonsense(model, people, photo):
    path, _ = photo
    picture = load_photo(path)
    face = Planted(matrix_of(0, 1, 0, 0)).find(picture)[0]

    class Wrong:
        name = "wrong"

        def __init__(self, **changes):
            self.changes = {"box": face.box, "landmarks": face.landmarks} | changes

        def find(self, photo):
            return [Face(photo, self.changes["box"], self.changes["landmarks"])]

    far = dict(face.landmarks) | {"nose": (9000.0, 50.0)}
    for changes, message in (
        ({"landmarks": far}, r"got nose at \(9000, 50\) from wrong"),
        ({"landmarks": {"nose": (1.0, 2.0)}}, "got none for left_eye, right_eye, mouth_left"),
        ({"landmarks": dict(face.landmarks) | {"nose": (float("nan"), 1.0)}}, "expected finite landmarks"),
        ({"box": (50, 50, 50, 90)}, "expected finite landmarks and a box"),
    ):
        with pytest.raises(ValueError, match=message):
            explain(model, path, people[1], detector=Wrong(**changes))
    one_spot = dict.fromkeys(face.landmarks, (50.0, 50.0))
    with pytest.raises(ValueError, match="all lie within 2 pixels"):
        explain(model, path, people[1], detector=Wrong(landmarks=one_spot))


def test_photos_without_a_file_are_called_as_the_figure_does(model, photo):
    path, detector = photo
    picture = Image.open(path)
    found = explain(model, picture, np.asarray(picture), channels="rgb", detector=detector)
    assert found.remarks["faces_a"].startswith("image A shows 2 faces")
    assert found.remarks["faces_b"].startswith("image B shows 2 faces")
    found = explain(model, picture, picture, detector=detector, names=("left", "right"))
    assert found.remarks["faces_b"].startswith("right shows 2 faces")


def test_photos_for_a_model_of_unknown_size():
    pair = PairSimilarity(lambda images: images.mean((2, 3)))
    photos = [np.zeros((50, width, 3), np.uint8) for width in (40, 60)]
    with pytest.raises(ValueError, match=r"40 x 50 and image B of 60 x 50; say it with .*image_size="):
        explain(pair, *photos, method="random", channels="rgb")
