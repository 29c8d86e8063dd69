"""The classes that detectors wrap, where they are installed: with planted networks, MTCNN with its own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from captum_face.photos import (
    FIVE_POINTS,
    TEMPLATES,
    InsightFaceDetector,
    MTCNNDetector,
    Photo,
    YuNetDetector,
    find_faces,
)

STRIDES = (8, 16, 32)
#: Five points from the middle of a cell, in cells.
POINTS = [-1, -1, 1, -1, 0, 0, -0.8, 1, 0.8, 1]
GREY = Photo(np.full((960, 1280, 3), 90, np.uint8), "grey.png")


def write_network(path, inputs, outputs):
    """An ONNX file that answers with these arrays whatever it is given."""
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    (name, shape) = inputs
    nodes = [
        helper.make_node("ReduceMean", [name], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "nothing"], ["zero"]),
        *(helper.make_node("Add", [f"{key}_", "zero"], [key]) for key in outputs),
    ]
    constants = [numpy_helper.from_array(np.zeros((), np.float32), "nothing")]
    constants += [numpy_helper.from_array(array, f"{key}_") for key, array in outputs.items()]
    graph = helper.make_graph(
        nodes,
        "planted",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)],
        [
            helper.make_tensor_value_info(key, TensorProto.FLOAT, array.shape)
            for key, array in outputs.items()
        ],
        constants,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=7), str(path))


def test_yunet_of_opencv(tmp_path):
    """OpenCV reads outputs ``cls``, ``obj``, ``bbox`` and ``kps`` at three strides."""
    pytest.importorskip("cv2")
    outputs = {}
    for key, values in {
        "cls": [0.9],
        "obj": [0.9],
        "bbox": [0, 0, np.log(3), np.log(4)],
        "kps": POINTS,
    }.items():
        for stride in STRIDES:
            array = np.zeros((1, (640 // stride) * (480 // stride), len(values)), np.float32)
            if stride == 16:
                array[0, 15 * 40 + 20] = values
            outputs[f"{key}_{stride}"] = array
    write_network(tmp_path / "yunet.onnx", ("input", [1, 3, 480, 640]), outputs)
    (face,) = find_faces(GREY, YuNetDetector(tmp_path / "yunet.onnx"))
    # At half the size: cell (20, 15) of 16 pixels, three cells wide and four high around its corner.
    assert face.box == (592, 416, 688, 544)
    assert face.confidence == pytest.approx(0.9)
    expected = 2 * (16 * np.add(np.reshape(POINTS, (5, 2)), (20, 15)) + 0.5) - 0.5
    np.testing.assert_allclose([face.landmarks[name] for name in FIVE_POINTS], expected, atol=1e-3)
    (tmp_path / "damaged.onnx").write_bytes(b"hello")
    with pytest.raises(ValueError, match="expected the network of YuNet, OpenCV cannot read"):
        YuNetDetector(tmp_path / "damaged.onnx")


def test_face_analysis_of_insightface(tmp_path):
    """A pack with a planted SCRFD: scores, distances to the box and points at three strides."""
    pytest.importorskip("insightface")
    outputs = {}
    for key, values in {"score": [0.8], "bbox": [2, 2, 2, 2], "kps": POINTS}.items():
        for stride in STRIDES:
            array = np.zeros(((640 // stride) ** 2 * 2, len(values)), np.float32)
            if stride == 16:
                array[2 * (15 * 40 + 20)] = values
            outputs[f"{key}_{stride}"] = array
    write_network(tmp_path / "det.onnx", ("input.1", [1, 3, "height", "width"]), outputs)
    (face,) = find_faces(GREY, InsightFaceDetector(tmp_path))
    assert face.box == (576, 416, 704, 544)
    assert face.confidence == pytest.approx(0.8)
    expected = 32 * np.add(np.reshape(POINTS, (5, 2)), (20, 15))
    np.testing.assert_allclose([face.landmarks[name] for name in FIVE_POINTS], expected, atol=1e-3)


@pytest.mark.real
def test_mtcnn_of_facenet_pytorch(shared):
    """Its points are those of dlib, roughly, and its crops those of its ``extract_face``."""
    package = pytest.importorskip("facenet_pytorch")
    pytest.importorskip("dlib")
    path = shared / "photos" / "one_a.jpg"
    face, dlibs = find_faces(path, MTCNNDetector())[0], find_faces(path)[0]
    away = [np.subtract(face.landmarks[name], dlibs.landmarks[name]) for name in FIVE_POINTS]
    assert np.linalg.norm(away, axis=1).max() < 0.15 * face.eye_distance
    for margin in (0, 20):
        crop = face.crop(replace(TEMPLATES["facenet"], margin=margin))[0]
        with Image.open(path) as photo:
            expected = package.extract_face(photo.convert("RGB"), np.array(face.box), 160, margin) / 255
        assert (crop - expected).abs().mean() < 0.01
        assert (crop.roll(2, 2) - expected).abs().mean() > 0.015
    # A face that dlib found is cut out nearly as MTCNN would.
    assert (dlibs.crop("facenet")[0] - face.crop("facenet")[0]).abs().mean() < 0.12
