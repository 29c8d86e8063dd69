from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from captum_face.data.images import load_image


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)


def test_png_is_rgb_in_unit_range(tmp_path, pixels):
    path = tmp_path / "face.png"
    Image.fromarray(pixels).save(path)
    image = load_image(path)
    assert image.shape == (1, 3, 6, 5)
    torch.testing.assert_close(image[0].permute(1, 2, 0) * 255, torch.from_numpy(pixels).float())
    assert torch.equal(load_image(str(path)), image)
    assert torch.equal(load_image(Image.fromarray(pixels)), image)


def test_other_modes_become_rgb(tmp_path, pixels):
    grey = Image.fromarray(pixels[..., 0])
    assert torch.equal(load_image(grey)[0, 0], load_image(grey)[0, 2])
    transparent = Image.fromarray(np.concatenate([pixels, pixels[..., :1]], axis=2))
    assert torch.equal(load_image(transparent), load_image(Image.fromarray(pixels)))
    deep = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    torch.testing.assert_close(load_image(deep), load_image(grey))


def test_exif_orientation_is_applied(tmp_path, pixels):
    path = tmp_path / "turned.png"
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(pixels).save(path, exif=exif)
    assert torch.equal(load_image(path), load_image(Image.fromarray(pixels[::-1, ::-1].copy())))


def test_unreadable_files(tmp_path, pixels):
    with pytest.raises(FileNotFoundError, match="found nothing at .*none.png"):
        load_image(tmp_path / "none.png")
    with pytest.raises(FileNotFoundError, match="found a folder"):
        load_image(tmp_path)
    text = tmp_path / "text.png"
    text.write_text("not an image")
    with pytest.raises(ValueError, match="expected an image file.*text.png"):
        load_image(text)
    whole = tmp_path / "whole.png"
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(whole)
    cut = tmp_path / "cut.png"
    cut.write_bytes(whole.read_bytes()[:-2000])
    with pytest.raises(ValueError, match="could not read the image .*cut.png"):
        load_image(cut)
