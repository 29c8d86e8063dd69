from __future__ import annotations

import numpy as np
import photos
import pytest

from captum_face.maps.templates import FIVE_POINTS, TEMPLATES
from captum_face.photos import Face, Photo


def test_mtcnn_figures_are_those_of_planted_boxes(capsys):
    """Boxes around the template's own points give the template back, and boxes that overlap wholly."""
    photo = Photo(np.zeros((500, 500, 3), np.uint8))
    known = np.array([TEMPLATES["facenet"].points[name] for name in FIVE_POINTS])
    faces = []
    for left, top, high in ((10, 20, 200), (100, 150, 300), (60, 10, 240)):
        wide = 0.743 * high
        points = (known + 0.5) / 160 * (wide, high) + (left, top) - 0.5
        landmarks = dict(zip(FIVE_POINTS, points.tolist(), strict=True))
        faces.append(Face(photo, (left, top, left + wide, top + high), landmarks, 1.0, mtcnn=True))
    moved = faces[1].landmarks | {"nose": (faces[1].landmarks["nose"][0] + 0.5, 260.0)}
    faces.append(Face(photo, faces[1].box, moved, 1.0, mtcnn=True))
    photos.show_mtcnn(faces, lambda face: None)
    shown = {line[:34].strip(): line[34:].split() for line in capsys.readouterr().out.splitlines()}
    for name, point in TEMPLATES["facenet"].points.items():
        np.testing.assert_allclose([float(v) for v in shown[name][:2]], point, atol=0.11)
    assert float(shown["width by height"][0]) == pytest.approx(0.743, abs=0.001)
    assert float(shown["from its own points"][0]) > 0.98


def test_overlap():
    assert photos.overlap((0, 0, 10, 10), (0, 0, 10, 10)) == 1
    assert photos.overlap((0, 0, 10, 10), (5, 0, 15, 10)) == pytest.approx(1 / 3)
    assert photos.overlap((0, 0, 10, 10), (20, 0, 30, 10)) == 0


@pytest.mark.real
def test_command(run, shared):
    pytest.importorskip("dlib")
    printed = run("photos", "--shared", shared, "--limit", 6)
    lines = [line.split() for line in printed.splitlines()]
    faces = lines[1 : [*lines, []].index([])]
    assert len(faces) == 6
    for _, _, turned, scale, pixels, points, descriptor in faces:
        assert (abs(float(turned)), float(scale)) == (0, 1)
        assert float(pixels) < 4
        assert float(points) < 1
        assert float(descriptor) < 0.15
    assert float(printed.partition("largest difference: ")[2].partition(",")[0]) < 0.05
    assert "6 aligned crops with a face" in printed
