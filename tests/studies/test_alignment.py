from __future__ import annotations

import alignment
import pytest
import torch

from captum_face.data import render_faces


def test_changes_are_what_their_names_say():
    face = render_faces(1)
    torch.testing.assert_close(alignment.changed(face), face, rtol=0, atol=1e-4)
    moved = alignment.changed(face, right=4, down=-8)
    torch.testing.assert_close(moved[..., :-8, 4:], face[..., 8:, :-4], rtol=0, atol=1e-3)
    torch.testing.assert_close(alignment.changed(face, degrees=90), face.rot90(-1, (2, 3)), rtol=0, atol=1e-3)
    larger = alignment.changed(face, scale=2)
    torch.testing.assert_close(
        larger[..., 55:57, 55:57].mean(), face[..., 55:57, 55:57].mean(), rtol=0, atol=0.05
    )
    tiles = alignment.shuffled(face, 4, torch.Generator().manual_seed(0))
    torch.testing.assert_close(tiles.sort().values.sum(), face.sum(), rtol=1e-4, atol=0)
    assert not torch.equal(tiles, face)


def test_a_squeezed_face_keeps_its_place():
    face = torch.zeros(1, 1, 112, 112)
    face[..., 26:86] = 1
    narrow = alignment.squeezed(face)
    assert narrow.shape == face.shape
    columns = narrow[0, 0, 0]
    assert columns.sum() == pytest.approx(42, abs=1)
    assert columns[56] == 1


@pytest.mark.real
def test_command(run, shared):
    pytest.importorskip("dlib")
    printed = run("alignment", "--shared", shared, "--limit", 16)
    rows = {line[:36].strip(): line[36:].split() for line in printed.splitlines()[7:-1]}
    assert int(rows["aligned crops"][3].rstrip("%")) <= 10
    for name in (
        "moved 8 px down",
        "moved 16 px down",
        "turned by 20 degrees",
        "turned by 180 degrees",
        "one colour",
    ):
        assert int(rows[name][3].rstrip("%")) >= 90, name
    templates = {line.split()[0]: line.split() for line in printed.splitlines()[3:6]}
    assert templates.keys() == {"arcface", "dlib", "facenet"}
    assert float(templates["arcface"][2]) < 5
    assert printed.splitlines()[-1].startswith("time for an image")
