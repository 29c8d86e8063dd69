from __future__ import annotations

import pytest
from PIL import Image

from captum_face.data import image_files, read_faces


def test_folders_of_faces(tmp_path):
    for name in ("ann/1.png", "ann/2.png", "bob/1.png", "010_1.png", "010_2.png", "Eve_0001.png", "x.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (14, 18)).save(tmp_path / name)
    Image.new("RGB", (20, 20)).save(tmp_path / "z_1.png")
    (tmp_path / "y.png").write_text("no image")
    images, people, left_out = read_faces(tmp_path)
    assert images.shape == (7, 3, 18, 14)
    assert people == ["010", "010", "Eve", "ann", "ann", "bob", "x"]
    assert "20, 20" in left_out["z_1.png"]
    assert "none" in left_out["y.png"]
    with pytest.raises(FileNotFoundError, match="expected a folder"):
        read_faces(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="found none"):
        read_faces(tmp_path / "empty")


def test_image_files_of_a_folder_and_below(tmp_path):
    for name in ("b.png", "a/2.JPG", "a/notes.txt", "c.png/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert image_files(tmp_path) == {name: tmp_path / name for name in ("a/2.JPG", "b.png", "c.png/1.png")}
    with pytest.raises(FileNotFoundError, match="found a file at"):
        image_files(tmp_path / "b.png")
