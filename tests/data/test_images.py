"""Images of every mode and bit depth, against pixel values that are known beforehand."""

from __future__ import annotations

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, features

import captum_face
from captum_face import PairSimilarity, explain, identify
from captum_face.data.images import image_size, load_image
from captum_face.testing import small_net

# One pixel of each mode as Pillow holds it, and what it must be read as: RGB in [0, 1].
PIXELS = [
    ("1", b"\x80", (1, 1, 1)),
    ("L", b"\x33", (0.2, 0.2, 0.2)),
    ("LA", b"\x66\xff", (0.4, 0.4, 0.4)),
    ("LA", b"\xff\x33", (0.2, 0.2, 0.2)),  # over black
    ("La", b"\x33\x66", (0.2, 0.2, 0.2)),
    ("RGB", b"\x33\x66\x99", (0.2, 0.4, 0.6)),
    ("RGBA", b"\x33\x66\x99\xff", (0.2, 0.4, 0.6)),
    ("RGBA", b"\xff\x00\xff\x66", (0.4, 0, 0.4)),
    ("RGBa", b"\x33\x66\x00\x66", (0.2, 0.4, 0)),
    ("RGBX", b"\x33\x66\x99\x00", (0.2, 0.4, 0.6)),
    ("CMYK", b"\xcc\x99\x66\x00", (0.2, 0.4, 0.6)),
    ("YCbCr", b"\x66\x80\x80", (0.4, 0.4, 0.4)),
    ("YCbCr", b"\x4c\x55\xff", (254 / 255, 0, 0)),
    ("HSV", b"\x00\xff\x99", (0.6, 0, 0)),
    ("LAB", b"\x88\x50\x43", (250 / 255, 3 / 255, 11 / 255)),
    ("I;16", struct.pack("<H", 13107), (0.2, 0.2, 0.2)),
    ("I;16L", struct.pack("<H", 1), (1 / 65535,) * 3),
    ("I;16B", struct.pack(">H", 256), (256 / 65535,) * 3),
    ("I;16N", struct.pack("=H", 65535), (1, 1, 1)),
    ("F", struct.pack("=f", 0.25), (0.25, 0.25, 0.25)),
    ("F", struct.pack("=f", 0.001), (0.001, 0.001, 0.001)),
]


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)


def known(*rgb):
    return torch.tensor(rgb)[None, :, None, None]


def png(depth, kind, row, *chunks):
    """A PNG file of one row with what Pillow does not write."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind]
    width = len(row) * 8 // (depth * samples)
    head = struct.pack(">IIBBBBB", width, 1, depth, kind, 0, 0, 0)
    parts = [(b"IHDR", head), *chunks, (b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


@pytest.mark.parametrize(("mode", "stored", "rgb"), PIXELS, ids=lambda value: str(value)[:20])
def test_every_mode(mode, stored, rgb):
    image = load_image(Image.frombytes(mode, (1, 1), stored))
    assert (image.shape, image.dtype) == ((1, 3, 1, 1), torch.float32)
    torch.testing.assert_close(image, known(*map(float, rgb)), rtol=1e-6, atol=1e-9)


def test_every_mode_that_pillow_has_is_known_here():
    assert {mode for mode, _, _ in PIXELS} | {"P", "PA", "I"} == set(Image.MODES)


def test_palettes():
    image = Image.frombytes("P", (2, 1), b"\x00\x01")
    image.putpalette([51, 102, 153, 255, 0, 255])
    assert load_image(image)[0, :, 0, 0].tolist() == pytest.approx([0.2, 0.4, 0.6])
    for transparency in (1, b"\xff\x00"):  # one index, or an opacity for each
        image.info["transparency"] = transparency
        assert load_image(image)[0, :, 0, 1].tolist() == [0, 0, 0]
        assert load_image(image)[0, :, 0, 0].tolist() == pytest.approx([0.2, 0.4, 0.6])
    both = Image.frombytes("PA", (2, 1), b"\x00\xff\x01\x66")
    both.putpalette([51, 102, 153, 255, 0, 255])
    torch.testing.assert_close(load_image(both)[0, :, 0, 1], torch.tensor([0.4, 0, 0.4]))


@pytest.mark.parametrize("ending", ["png", "tif", "webp", "bmp", "jpg", "gif", "ppm"])
@pytest.mark.parametrize("mode", ["1", "L", "RGB"])
def test_files(tmp_path, ending, mode):
    path = tmp_path / f"face.{ending}"
    values = {"1": 255, "L": 51, "RGB": (51, 102, 153)}[mode]
    Image.new(mode, (16, 8), values).save(path, **({"lossless": True} if ending == "webp" else {}))
    want = known(*(np.broadcast_to(np.array(values), 3) / 255).tolist())
    image = load_image(path)
    assert image.shape == (1, 3, 8, 16)
    torch.testing.assert_close(image, want.float().expand_as(image), rtol=0, atol=0.01)
    assert torch.equal(load_image(str(path)), image)
    assert image_size(path) == (8, 16)


@pytest.mark.parametrize(("depth", "row", "want"), [
    (1, b"\x40", [0, 1, 0, 0, 0, 0, 0, 0]),
    (2, b"\x1b", [0, 1 / 3, 2 / 3, 1]),
    (4, b"\x0f\x60", [0, 1, 0.4, 0]),
    (8, b"\x00\x33", [0, 0.2]),
    (16, struct.pack(">3H", 0, 256, 13107), [0, 256 / 65535, 0.2]),
])  # fmt: skip
def test_grey_png_of_every_depth_and_its_transparent_value(tmp_path, depth, row, want):
    path = tmp_path / "grey.png"
    path.write_bytes(png(depth, 0, row))
    for channel in load_image(path)[0]:
        assert channel[0].tolist() == pytest.approx(want, abs=1e-7)
    for value in {1: (1,), 2: (1, 3), 4: (6, 15), 8: (0x33,), 16: (256, 13107)}[depth]:
        white = 2**depth - 1
        path.write_bytes(png(depth, 0, row, (b"tRNS", struct.pack(">H", value))))
        hidden = [0 if abs(level - value / white) < 1e-6 else level for level in want]
        assert load_image(path)[0, 0, 0].tolist() == pytest.approx(hidden, abs=1e-7)


def test_colour_png_of_16_bits(tmp_path):
    path = tmp_path / "deep.png"
    colours = struct.pack(">6H", 65535, 0, 13107, 256, 512, 1024)
    path.write_bytes(png(16, 2, colours))
    # Pillow reads the upper 8 bits: a step of 1/255.
    got = load_image(path)[0, :, 0].T.tolist()
    assert got[0] == pytest.approx([1, 0, 0.2])
    assert got[1] == pytest.approx([1 / 255, 2 / 255, 4 / 255])
    path.write_bytes(png(16, 2, colours, (b"tRNS", struct.pack(">3H", 65535, 0, 13107))))
    with pytest.raises(ValueError, match="transparent colour of 16 bits"):
        load_image(path)
    path.write_bytes(png(8, 2, b"\x33\x66\x99\xff\x00\xff", (b"tRNS", struct.pack(">3H", 255, 0, 255))))
    assert load_image(path)[0, :, 0, 1].tolist() == [0, 0, 0]
    path.write_bytes(png(16, 6, struct.pack(">8H", 65535, 0, 0, 0, 0, 65535, 13107, 65535)))
    assert load_image(path)[0, :, 0].T.tolist() == [[0, 0, 0], [0, 1, pytest.approx(0.2)]]


def tiff(values, bits, sign=1, photometric=1, order="<"):
    """A TIFF file of one row, uncompressed, with what Pillow does not write."""
    data = values.tobytes()
    tags = [(256, values.size), (257, 1), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1),
            (278, 1), (279, len(data)), (339, sign)]  # fmt: skip
    data += b"\0" * (-len(data) % 2)
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8 + len(data))
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in tags)
    return head + data + struct.pack(f"{order}H", len(tags)) + entries + struct.pack(f"{order}I", 0)


@pytest.mark.parametrize("order", ["<", ">"])
def test_tiff_of_every_depth(tmp_path, order):
    path = tmp_path / "face.tif"
    deep = np.array([0, 256, 13107, 65535], dtype=f"{order}u2")
    path.write_bytes(tiff(deep, 16, order=order))
    assert load_image(path)[0, 0, 0].tolist() == pytest.approx((deep / 65535).tolist(), abs=1e-7)
    floats = np.array([0, 0.001, 0.25, 1], dtype=f"{order}f4")
    path.write_bytes(tiff(floats, 32, sign=3, order=order))
    assert load_image(path)[0, 0, 0].tolist() == floats.tolist()
    for values, bits, sign in ((deep.astype(f"{order}i2"), 16, 2), (deep.astype(f"{order}u4"), 32, 2)):
        path.write_bytes(tiff(values, bits, sign, order=order))
        with pytest.raises(ValueError, match="face.tif: expected a kind of image that says what is white"):
            load_image(path)
    path.write_bytes(tiff(np.array([0, 51, 255], dtype=np.uint8), 8, photometric=0, order=order))
    assert load_image(path)[0, 0, 0].tolist() == pytest.approx([1, 0.8, 0])


def test_tiff_whose_zero_is_white_or_whose_white_is_4095(tmp_path):
    path = tmp_path / "face.tif"
    path.write_bytes(tiff(np.array([0, 13107, 65535], dtype="<u2"), 16, photometric=0))
    assert load_image(path)[0, 0, 0].tolist() == pytest.approx([1, 0.8, 0])
    path.write_bytes(tiff(np.array([0, 0.25], dtype="<f4"), 32, sign=3, photometric=0))
    assert load_image(path)[0, 0, 0].tolist() == [1, 0.75]
    packed = tiff(np.frombuffer(b"\xff\xf3\x33", dtype=np.uint8), 12)  # 4095 and 819
    packed = packed.replace(struct.pack("<HHII", 256, 4, 1, 3), struct.pack("<HHII", 256, 4, 1, 2))
    path.write_bytes(packed)
    assert load_image(path)[0, 0, 0].tolist() == pytest.approx([1, 0.2])
    path.write_bytes(tiff(np.array([0, 200], dtype=np.uint8), 8, sign=2))
    with pytest.raises(ValueError, match="signed values"):
        load_image(path)


@pytest.mark.parametrize("format", ["PNG", "PPM", "TIFF", "JPEG2000"])
def test_16_bits_do_not_depend_on_their_values(tmp_path, format):
    if format == "JPEG2000" and not features.check("jpg_2000"):
        pytest.skip("this Pillow has no JPEG 2000")
    path = tmp_path / "dark"
    dark = np.full((32, 32), 200, dtype=np.uint16)
    for brightest in (200, 256, 65535):
        dark[0, 0] = brightest
        Image.fromarray(dark).save(path, format)
        assert float(load_image(path)[0, 0, 5, 5]) == pytest.approx(200 / 65535, rel=1e-5)
        assert float(load_image(path)[0, 0, 0, 0]) == pytest.approx(brightest / 65535, rel=1e-5)


@pytest.mark.parametrize("extreme", [1.07, 255.0, -0.1, np.nan, np.inf, -np.inf])
def test_floats_beyond_their_range_are_refused(tmp_path, extreme):
    values = np.full((4, 4), 0.5, dtype=np.float32)
    values[1, 1] = extreme
    Image.fromarray(values).save(tmp_path / "face.tif")
    match = r"expected floats in \[0, 1\]" if np.isfinite(extreme) else "expected finite values"
    for source in (tmp_path / "face.tif", Image.fromarray(values), values, values.astype(np.float64)):
        with pytest.raises(ValueError, match=match):
            load_image(source)
    if np.isfinite(extreme):  # the advice of the message
        load_image(np.clip(values, 0, 1))
        load_image(Image.fromarray(np.clip(values, 0, 1)))


def test_integers_of_32_bits_are_refused_with_advice_that_works():
    image = Image.fromarray(np.array([[0, 100, 1000]], dtype=np.int32))
    with pytest.raises(
        ValueError, match=r"Pillow image: .* got integers of mode I, which can mean any"
    ) as error:
        load_image(image)
    white = 1000
    advice = str(error.value).rpartition("white: ")[2]
    done = eval(advice, {"Image": Image, "np": np, "image": image, "white": white})
    torch.testing.assert_close(load_image(done)[0, 0, 0], torch.tensor([0, 0.1, 1]))


@pytest.mark.parametrize("mode", ["LA", "RGBA", "PA", "P", "La", "RGBa"])
def test_hidden_colours_do_not_count(mode, pixels):
    opacity = np.full((6, 5), 255, dtype=np.uint8)
    opacity[:3] = 0
    seen = []
    for hidden in (0, 90, 255):
        picture = pixels.copy()
        picture[:3] = hidden
        image = Image.fromarray(np.dstack([picture, opacity]))
        if mode == "P":
            image = image.quantize(256, method=Image.Quantize.FASTOCTREE)
        elif mode == "PA":
            image = Image.fromarray(picture).convert("L").convert("PA")
            image.putalpha(Image.fromarray(opacity))
        else:
            image = image.convert("LA").convert(mode) if mode == "La" else image.convert(mode)
        seen.append(load_image(image))
    assert (seen[0][..., :3, :] == 0).all()
    assert (seen[0][..., 3:, :] > 0).any()
    assert all(torch.equal(other[..., :3, :], seen[0][..., :3, :]) for other in seen)


@pytest.mark.parametrize("mode", ["LA", "RGBA", "PA", "La", "RGBa"])
def test_nothing_to_see_is_refused(tmp_path, mode):
    with pytest.raises(ValueError, match="every pixel is fully transparent"):
        load_image(Image.new(mode, (4, 4)))
    if mode == "RGBA":
        Image.new(mode, (4, 4), (200, 100, 50, 0)).save(tmp_path / "empty.png")
        with pytest.raises(ValueError, match="image .*empty.png: expected a picture"):
            load_image(tmp_path / "empty.png")


ORIENTED = {
    1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud,
    5: lambda a: a.swapaxes(0, 1), 6: lambda a: np.rot90(a, -1), 7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: np.rot90,
}  # fmt: skip


@pytest.mark.parametrize("orientation", ORIENTED)
@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_exif_orientation(tmp_path, pixels, orientation, format):
    path = tmp_path / "turned"
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = pixels if format != "JPEG" else np.kron(pixels[:2, :3] // 2 * 2, np.ones((8, 8, 1), np.uint8))
    Image.fromarray(picture).save(path, format, exif=exif, lossless=True, quality=95, subsampling=0)
    want = torch.from_numpy(ORIENTED[orientation](picture).copy()).permute(2, 0, 1)[None] / 255
    tolerance = 0.05 if format == "JPEG" else 1e-6
    torch.testing.assert_close(load_image(path), want.float(), rtol=0, atol=tolerance)
    assert image_size(path) == want.shape[-2:]
    with Image.open(path) as image:
        torch.testing.assert_close(load_image(image), want.float(), rtol=0, atol=tolerance)


def test_jpeg_of_inks(tmp_path):
    """Adobe writes inks turned over, and so does Pillow."""
    path = tmp_path / "inks.jpg"
    Image.new("CMYK", (16, 16), (204, 153, 102, 0)).save(path, quality=100)
    torch.testing.assert_close(
        load_image(path)[..., 5, 5], known(0.2, 0.4, 0.6)[..., 0, 0], rtol=0, atol=0.02
    )


def test_profiles_do_not_change_values(tmp_path, pixels):
    from PIL import ImageCms

    path = tmp_path / "face.png"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    Image.fromarray(pixels).save(path, icc_profile=profile)
    assert torch.equal(load_image(path), load_image(Image.fromarray(pixels)))


@pytest.mark.parametrize("ending", ["gif", "tif", "png", "webp"])
def test_of_several_frames_the_first_is_read_and_said_so(tmp_path, ending):
    path = tmp_path / f"moving.{ending}"
    first, second = (Image.new("RGB", (8, 8), colour) for colour in ((255, 0, 0), (0, 0, 255)))
    first.save(path, save_all=True, append_images=[second])
    with pytest.warns(UserWarning, match=rf"moving\.{ending} has 2 frames; the first is used"):
        image = load_image(path)
    torch.testing.assert_close(image[..., 4, 4], torch.tensor([[1.0, 0, 0]]), rtol=0, atol=0.02)


@pytest.mark.parametrize("ending", ["png", "jpg", "tif", "gif", "webp", "bmp"])
def test_cut_files(tmp_path, ending):
    picture = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole, cut = tmp_path / f"whole.{ending}", tmp_path / f"cut.{ending}"
    Image.fromarray(picture).save(whole)
    data = whole.read_bytes()
    for kept in (len(data) // 2, len(data) // 10, 20, 3, 0):
        cut.write_bytes(data[:kept])
        with pytest.raises(ValueError, match=rf"(could not read|expected an image file).*cut\.{ending}"):
            load_image(cut)


def test_a_cut_file_that_pillow_has_opened(tmp_path):
    whole = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(whole, "PNG")
    with (
        Image.open(io.BytesIO(whole.getvalue()[:2000])) as image,
        pytest.raises(ValueError, match="could not read the Pillow image"),
    ):
        load_image(image)


def test_no_images(tmp_path):
    with pytest.raises(FileNotFoundError, match="found nothing at .*none.png"):
        load_image(tmp_path / "none.png")
    with pytest.raises(FileNotFoundError, match="found a folder"):
        load_image(tmp_path)
    text = tmp_path / "text.png"
    text.write_text("not an image")
    with pytest.raises(ValueError, match="expected an image file.*text.png"):
        load_image(text)
    with pytest.raises(ValueError, match="could not read the image .*text.png"):
        image_size(text)
    whole = tmp_path / "whole.jpg"
    Image.effect_noise((64, 64), 50).save(whole)
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(whole.read_bytes()[:-500])
    with pytest.raises(ValueError, match=r"^could not read the image \S*cut.jpg: image file is truncated"):
        load_image(cut)
    for source in (None, 3, b"face.png"):
        with pytest.raises(TypeError, match="expected an image as a path, a Pillow image or a numpy array"):
            load_image(source)


def test_arrays(pixels):
    assert captum_face.load_image is load_image
    want = load_image(Image.fromarray(pixels))
    backwards = pixels[..., ::-1]  # as OpenCV reads; a view that torch does not take
    for array, channels in (
        (pixels, "rgb"), (backwards, "bgr"), (pixels / 255, "rgb"),
        ((pixels / 255).astype(np.float32), "rgb"),
        (np.asfortranarray(pixels), "rgb"), (backwards / 255, "bgr"),
    ):  # fmt: skip
        torch.testing.assert_close(load_image(array, channels=channels), want)
    grey = load_image(Image.fromarray(pixels[..., 0]))
    for array in (pixels[..., 0], pixels[..., :1], pixels[..., 0] / 255):
        torch.testing.assert_close(load_image(array), grey)
        torch.testing.assert_close(load_image(array, channels="bgr"), grey)
    fixed = pixels.copy()
    fixed.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_image(fixed, channels="rgb")[...] = 0  # the array stays as it is


def test_arrays_that_do_not_fit(pixels):
    with pytest.raises(
        ValueError, match="expected channels='rgb' or channels='bgr'.*OpenCV's imread gives BGR"
    ):
        load_image(pixels)
    with pytest.raises(ValueError, match="unknown order of channels 'gbr'"):
        load_image(pixels, channels="gbr")
    with pytest.raises(ValueError, match=r"\(3, 6, 5\); channels come last here: array.transpose\(1, 2, 0\)"):
        load_image(pixels.transpose(2, 0, 1), channels="rgb")
    with pytest.raises(ValueError, match=r"remove the fourth channel with array\[..., :3\]"):
        load_image(np.zeros((6, 5, 4), np.uint8), channels="bgr")
    with pytest.raises(ValueError, match=r"\(1, 6, 5, 3\); give array\[0\]"):
        load_image(pixels[None], channels="rgb")
    for shape in ((5,), (0, 5, 3), (6, 5, 7), (2, 6, 5, 3), (6, 5, 2), ()):
        with pytest.raises(ValueError, match="expected an array"):
            load_image(np.zeros(shape, np.uint8), channels="rgb")
    for kind in (np.int8, np.uint16, np.int32, np.int64, bool, complex, object):
        with pytest.raises(TypeError, match="expected an array of uint8"):
            load_image(pixels.astype(kind), channels="rgb")
    for values in (pixels.astype(np.float32), pixels / 127.5 - 1, pixels * 1.07 / 255):
        with pytest.raises(ValueError, match=r"numpy array: expected floats in \[0, 1\]"):
            load_image(values, channels="rgb")
    with pytest.raises(ValueError, match="expected channels with numpy arrays alone, got 'bgr'"):
        load_image(Image.fromarray(pixels), channels="bgr")


def test_explain_and_identify_take_arrays(tmp_path):
    random = np.random.default_rng(3)
    faces = [random.integers(0, 256, (18, 14, 3), dtype=np.uint8) for _ in range(3)]
    pair = PairSimilarity(small_net())
    want = explain(pair, Image.fromarray(faces[0]), Image.fromarray(faces[1]))
    turned = [face[..., ::-1] for face in faces]
    got = explain(pair, turned[0], turned[1], channels="bgr")
    assert torch.equal(got.images[0], want.images[0])
    assert got.score == want.score
    assert torch.equal(got.attributions[1], want.attributions[1])
    Image.fromarray(faces[1]).save(tmp_path / "b.png")
    assert explain(pair, turned[0], tmp_path / "b.png", channels="bgr").score == want.score
    with pytest.raises(ValueError, match="expected channels="):
        explain(pair, faces[0], faces[1])
    with pytest.raises(ValueError, match="with a tensor, which is RGB"):
        explain(pair, want.images[0], faces[1], channels="bgr")

    found = identify(pair, turned[0], turned[1:], "xssab", channels="bgr", names=["ann", "bob"])
    assert dict(found.ranking)["ann"] == pytest.approx(want.score, abs=1e-6)
    same = identify(pair, faces[0], np.stack(faces[1:]), "xssab", channels="rgb")
    assert sorted(score for _, score in same.ranking) == sorted(score for _, score in found.ranking)
    with pytest.raises(ValueError, match="expected a gallery of arrays"):
        identify(pair, faces[0], faces[1], channels="rgb")
    with pytest.raises(ValueError, match="expected gallery images of one size"):
        identify(pair, faces[0], [faces[1], faces[2][1:]], channels="rgb")


def test_images_in_memory_are_read_alike(pixels):
    """What ``.bin`` files hold goes through the same reader."""
    buffer = io.BytesIO()
    Image.fromarray(np.dstack([pixels, np.zeros((6, 5), np.uint8)])).save(buffer, "PNG")
    with Image.open(buffer) as image, pytest.raises(ValueError, match="fully transparent"):
        load_image(image)
