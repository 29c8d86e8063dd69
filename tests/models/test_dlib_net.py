from __future__ import annotations

import bz2
import io
import math
import pickle
import struct
import sys
import time
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from captum_face.models import DlibResNet, dlib_file, dlib_resnet, load_pair, load_weights
from captum_face.models.dlib_net import DLIB_FILE, DLIB_SHA256, _load
from captum_face.pair.scores import shown

TINY = ((4, 1), (6, 2), (6, 1))
TINY_SIZE = 54
PUBLISHED = ((32, 3), (64, 4), (128, 3), (256, 3), (256, 1))


def whole(value):
    digits = abs(value).to_bytes(max(1, (abs(value).bit_length() + 7) // 8), "little")
    return bytes([len(digits) | (0x80 if value < 0 else 0)]) + digits


def real(value):
    mantissa, exponent = math.frexp(value)
    return whole(int(mantissa * 2**53)) + whole(exponent - 53)


def text(value):
    return whole(len(value)) + value.encode()


def tensor(*parts, shape=None):
    values = np.concatenate([np.asarray(part, "<f4").ravel() for part in parts]) if parts else np.empty(0)
    shape = shape or (len(values), *([1] * 3 if len(values) else [0] * 3))
    return b"".join(map(whole, (2, *shape))) + values.astype("<f4").tobytes()


def alias(*shape):
    return b"".join(map(whole, (1, *(shape or (0, 0, 0, 0)))))


class Writer:
    """Writes a network as dlib does: versions from the last layer on, then the layers from the first on."""

    def __init__(self, stages, embedding_size, size, seed=0, convolution="con_4", product="fc_2"):
        self.rng = np.random.default_rng(seed)
        self.convolution_name, self.product_name = convolution, product
        self.versions, self.body, self.state = [], [], []
        self.stages, self.embedding_size, self.size = stages, embedding_size, size

    def layer(self, content, version=2):
        self.versions.append(version)
        tail = whole(1) if version == 3 else b""
        self.body.append(content + b"110" + 3 * tensor() + tail)

    def tag(self):
        self.versions.append(1)

    def convolution(self, out, into, kernel, stride, padding, version=2):
        weight = self.rng.normal(0, (2 / into / kernel**2) ** 0.5, (out, into, kernel, kernel))
        bias, shift = self.rng.normal(0, 0.1, (2, out))
        scale = self.rng.uniform(0.5, 1.2, out) * self.rng.choice([-1, 1], out)
        self.state.append((weight, bias, scale, shift))
        flags = {"con_4": b"", "con_5": b"1", "con_6": b"10"}[self.convolution_name]
        sizes = (out, kernel, kernel, stride, stride, padding, padding)
        self.layer(
            text(self.convolution_name) + tensor(weight, bias) + b"".join(map(whole, sizes))
            + alias(out, into, kernel, kernel) + alias(1, out, 1, 1) + 4 * real(1.0) + flags,
            version,
        )  # fmt: skip
        self.layer(text("affine_") + tensor(scale, shift) + 2 * alias(1, out, 1, 1) + whole(0))

    def pool(self, name, *sizes):
        self.layer(text(name) + b"".join(map(whole, sizes)))

    def write(self):
        channels = self.stages[0][0]
        self.convolution(channels, 3, 7, 2, 0, version=3)
        self.layer(text("relu_"))
        self.pool("max_pool_2", 3, 3, 2, 2, 0, 0)
        for stage, (width, blocks) in enumerate(self.stages):
            for block in range(blocks):
                down = stage > 0 and block == 0
                self.tag()
                self.convolution(width, channels, 3, *((2, 0) if down else (1, 1)))
                self.layer(text("relu_"))
                self.convolution(width, width, 3, 1, 1)
                if down:
                    self.tag()
                    self.tag()
                    self.pool("avg_pool_2", 2, 2, 2, 2, 0, 0)
                self.layer(text("add_prev_"))
                self.layer(text("relu_"))
                channels = width
        self.pool("avg_pool_2", 0, 0, 1, 1, 0, 0)
        product = self.rng.normal(0, 0.2 * channels**-0.5, (channels, self.embedding_size))
        self.state.append(product)
        flag = {"fc_2": b"", "fc_3": b"1"}[self.product_name]
        shape = (channels, self.embedding_size)
        numbers = alias(*shape, 1, 1) + alias() + whole(1) + 3 * real(1.0) + whole(0) + whole(11)
        weights = whole(shape[1]) + whole(shape[0]) + tensor(product, shape=(*shape, 1, 1))
        self.layer(text(self.product_name) + weights + numbers + flag)
        means = b"".join(real(np.float32(mean)) for mean in (122.782, 117.001, 104.298))
        return (
            whole(1) + text("loss_metric_2") + real(0.04) + real(0.6)
            + b"".join(map(whole, reversed(self.versions)))
            + text("input_rgb_image_sized") + means + 2 * whole(self.size) + b"".join(self.body)
        )  # fmt: skip


def tiny(content, tmp_path):
    """A tiny network with the weights of a file with this content."""
    path = tmp_path / "tiny.dat"
    path.write_bytes(content)
    network = DlibResNet(TINY, 5, TINY_SIZE).eval()
    _load(network, path)
    return network


@pytest.fixture(scope="module")
def written():
    return Writer(TINY, 5, TINY_SIZE).write()


def reference(writer, x):
    """The network from its description, layer by layer in float64, with scale and shift of their own."""
    state = iter(writer.state)

    def conv(x, stride, padding):
        weight, bias, scale, shift = (torch.from_numpy(part) for part in next(state))
        x = F.conv2d(x, weight, bias, stride, padding)
        return x * scale[:, None, None] + shift[:, None, None]

    x = F.max_pool2d(conv(x, 2, 0).relu(), 3, 2)
    for stage, (width, blocks) in enumerate(writer.stages):
        for block in range(blocks):
            down = stage > 0 and block == 0
            main = conv(conv(x, 2 if down else 1, 0 if down else 1).relu(), 1, 1)
            shortcut = F.avg_pool2d(x, 2) if down else x
            shape = (
                len(x),
                width,
                *(max(pair) for pair in zip(main.shape[2:], shortcut.shape[2:], strict=True)),
            )
            total = x.new_zeros(shape)
            for part in (main, shortcut):
                total[:, : part.shape[1], : part.shape[2], : part.shape[3]] += part
            x = total.relu()
    return x.mean((2, 3)) @ torch.from_numpy(next(state))


@pytest.mark.parametrize(
    ("convolution", "product"), [("con_4", "fc_2"), ("con_5", "fc_2"), ("con_6", "fc_3")]
)
@pytest.mark.parametrize("size", [50, 54, 61])
def test_a_file_computes_as_described(tmp_path, convolution, product, size):
    writer = Writer(TINY, 5, size, convolution=convolution, product=product)
    (tmp_path / "net.dat").write_bytes(writer.write())
    network = DlibResNet(TINY, 5, size).eval()
    _load(network, tmp_path / "net.dat")
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = reference(writer, x.double())
        assert expected.abs().mean() > 0.01
        torch.testing.assert_close(network(x).double(), expected, rtol=1e-4, atol=1e-5)


def rows(network):
    """A row for each channel of all weights, by name."""
    return {name: value.reshape(len(value), -1) for name, value in network.state_dict().items()}


def test_a_damaged_byte_is_refused_or_changes_one_weight(tmp_path):
    """Outside of the weights it is refused, or has nothing to do with the embedding, such as the loss."""
    writer = Writer(TINY, 5, TINY_SIZE)
    written = writer.write()
    inside = np.zeros(len(written), bool)
    for parts in writer.state:
        parts = parts if isinstance(parts, tuple) else (parts,)
        for part in parts:
            values = np.asarray(part, "<f4").tobytes()
            start = written.index(values)
            inside[start : start + len(values)] = True
    intact = rows(tiny(written, tmp_path))
    rng = np.random.default_rng(1)
    headers, weights = (rng.permutation(np.flatnonzero(mask))[:250] for mask in (~inside, inside))
    loaded = 0
    for place in [*headers, *weights]:
        damaged = bytearray(written)
        damaged[place] ^= 1 << int(rng.integers(8))
        try:
            found = rows(tiny(bytes(damaged), tmp_path))
        except ValueError:
            continue
        loaded += 1
        changes = [
            (found[name] != value).any(1).sum() if value.ndim > 1 else (found[name] != value).sum()
            for name, value in intact.items()
        ]
        # a scale is part of its channel's weights and bias
        assert max(changes) <= inside[place]
        assert all(value.isfinite().all() for value in found.values())
    assert 200 < loaded < 350


def test_cut_and_prolonged_files_are_refused(tmp_path, written):
    for place in [*range(1, 300), *np.linspace(300, len(written) - 1, 60, dtype=int)]:
        with pytest.raises(ValueError, match="tiny.dat"):
            tiny(written[:place], tmp_path)
    with pytest.raises(ValueError, match=r"end of the file after the last layer, got 4 more bytes"):
        tiny(written + bytes(4), tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (text("con_4"), text("con_3"), r"layer 1 to be one of con_4.*got 'con_3'"),
        (text("relu_"), text("prelu"), "got 'prelu'"),
        (text("input_rgb_image_sized"), text("input_rgb_image"), "got 'input_rgb_image'"),
        (real(np.float32(117.001)), real(np.float32(9)), r"means .* \[122.782, 117.001, 104.298\], got"),
        (2 * whole(TINY_SIZE), 2 * whole(150), r"images of the size \(54, 54\), got \(150, 150\)"),
        (text("add_prev_"), text("mult_prev_"), "got 'mult_prev_'"),
        # what would be 16 GiB of weights
        (whole(2) + whole(4 * 3 * 49 + 4), whole(2) + whole(2**32), "17179869184 more bytes of layer 1"),
        (whole(2) + whole(4 * 3 * 49 + 4), whole(2) + whole(-4), "expected sizes"),
    ],
)  # fmt: skip
def test_another_network_is_refused(tmp_path, written, old, new, message):
    assert old in written
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=message):
            tiny(written.replace(old, new, 1), tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 10e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("stages", "embedding_size"), [((*TINY, (6, 1)), 5), (TINY[:2], 5), (TINY, 6), (((4, 1), (6, 3)), 5)]
)
def test_other_sizes_are_refused(tmp_path, stages, embedding_size):
    with pytest.raises(ValueError, match="another network, or the file is damaged"):
        tiny(Writer(stages, embedding_size, TINY_SIZE).write(), tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_impossible_weights_are_refused(tmp_path, written, value):
    weights = written.index(text("con_4")) + 30
    damaged = bytearray(written)
    damaged[weights + 400 : weights + 404] = struct.pack("<f", value)
    damaged[weights + 404 : weights + 408] = struct.pack("<f", value)
    with pytest.raises(ValueError, match=r"values of layer 1 \(con_4\) within 100000"):
        tiny(bytes(damaged), tmp_path)


def archive():
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        file.writestr("data.pkl", "x")
    return content.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (bz2.compress(b"x" * 100), "compressed by bzip2.*bunzip2 weights.dat"),
        (archive(), r"a zip archive. .* load_weights\(DlibResNet\(\), '.*weights.dat'\)"),
        (pickle.dumps({}), "a pickle"),
        (b"<!DOCTYPE html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "pointer of Git LFS"),
        (b"\x00" * 1000, "byte 1 of 1000"),
        (b"\xff" * 1000, "whole number of 1 to 8 bytes"),
    ],
    ids=["empty", "bzip2", "zip", "pickle", "html", "lfs", "zeros", "ones"],
)
def test_files_of_another_kind_are_refused(tmp_path, content, message):
    (tmp_path / "weights.dat").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        dlib_resnet(tmp_path / "weights.dat")


def test_weights_of_pytorch_are_loaded_as_the_message_says(tmp_path):
    torch.save(DlibResNet(TINY, 5, TINY_SIZE).state_dict(), tmp_path / "weights.pt")
    with pytest.raises(ValueError, match="load_weights"):
        dlib_resnet(tmp_path / "weights.pt")
    load_weights(DlibResNet(TINY, 5, TINY_SIZE), tmp_path / "weights.pt")


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"network file of dlib \(.dat\) at .*, found nothing"):
        dlib_resnet(tmp_path / "none.dat")
    with pytest.raises(FileNotFoundError, match="found a folder"):
        dlib_resnet(tmp_path)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package of the name that may be given files; running it fails."""
    for name in [name for name in sys.modules if name.startswith("face_recognition_models")]:
        monkeypatch.delitem(sys.modules, name)
    folder = tmp_path / "face_recognition_models"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise RuntimeError('it is run')")
    monkeypatch.syspath_prepend(tmp_path)
    return folder


@pytest.mark.parametrize("place", ["models", "data/v2", "."])
def test_the_file_is_found_wherever_the_package_has_it(package, place):
    (package / place).mkdir(parents=True, exist_ok=True)
    (package / place / DLIB_FILE).write_bytes(b"\x00")
    assert dlib_file() == package / place / DLIB_FILE


def test_a_package_without_the_file(package):
    with pytest.raises(
        FileNotFoundError, match=rf"expected {DLIB_FILE} in the installed package .*none in {package}"
    ):
        dlib_resnet()


def test_no_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "face_recognition_models", None)
    with pytest.raises(ImportError, match=r'pip install "captum-face\[photos\]"'):
        load_pair("dlib")


def test_a_file_in_the_package_that_is_not_the_published_one_is_refused(package):
    published = Writer(PUBLISHED, 128, 150).write()
    (package / DLIB_FILE).write_bytes(published)
    with pytest.raises(ValueError, match=f"{DLIB_SHA256}.*force-reinstall"):
        dlib_resnet()


def chips_of(photos, five_points):
    """Chips ``(N, 150, 150, 3)`` of all faces as dlib cuts them."""
    dlib = pytest.importorskip("dlib")
    detector, points = dlib.get_frontal_face_detector(), dlib.shape_predictor(str(five_points))
    images = map(dlib.load_rgb_image, map(str, photos))
    return np.stack([
        dlib.get_face_chip(image, points(image, box), size=150, padding=0.25)
        for image in images
        for box in detector(image, 1)
    ])  # fmt: skip


def require_same_descriptors(pair, path, chips):
    """Looks whether a pair wrapper embeds chips as dlib itself does with that file."""
    dlib = pytest.importorskip("dlib")
    theirs = dlib.face_recognition_model_v1(str(path))
    expected = torch.tensor([list(theirs.compute_face_descriptor(chip)) for chip in chips])
    images = torch.from_numpy(chips).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        ours = pair.embed(images)
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-4)
        alone = torch.cat([pair.embed(image) for image in images.split(1)])
        torch.testing.assert_close(ours, alone, rtol=0, atol=1e-5)
    assert torch.pdist(ours).min() > 0.01  # else the comparison would say little


def drawn_chips():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (2, 150, 150, 3), dtype=np.uint8)
    constant = np.stack([np.full((150, 150, 3), value, np.uint8) for value in (0, 128, 255)])
    return np.concatenate([noise, constant, np.full((1, 150, 150, 3), (250, 30, 5), np.uint8)])


def test_equals_dlib_on_noise_and_constant_chips():
    pair = load_pair("dlib")
    require_same_descriptors(pair, dlib_file(), drawn_chips())


@pytest.mark.parametrize(("convolution", "product"), [("con_4", "fc_2"), ("con_6", "fc_3")])
def test_equals_dlib_with_weights_of_others(tmp_path, convolution, product):
    """dlib reads what the writer above writes, too."""
    path = tmp_path / "own.dat"
    path.write_bytes(Writer(PUBLISHED, 128, 150, convolution=convolution, product=product).write())
    with pytest.warns(UserWarning, match="not the published file"):
        pair = load_pair("dlib", weights=path)
    assert pair.threshold is None
    require_same_descriptors(pair, path, drawn_chips()[:3])


@pytest.mark.real
def test_equals_dlib_on_the_faces_of_all_photos(shared):
    photos = sorted((shared / "photos").glob("*.jpg"))
    path = dlib_file()
    chips = chips_of(photos, path.parent / "shape_predictor_5_face_landmarks.dat")
    assert len(chips) >= len(photos)
    require_same_descriptors(load_pair("dlib"), path, chips)


def test_other_files_of_the_package_are_refused_quickly():
    start = time.monotonic()
    for path in dlib_file().parent.glob("*.dat"):
        if path.name != DLIB_FILE:
            with pytest.raises(ValueError, match="something else"):
                dlib_resnet(path)
    assert time.monotonic() - start < 2


def test_the_pair_wrapper_has_the_published_threshold():
    pair = load_pair("dlib")
    assert pair.score.name == "euclidean"
    assert pair.threshold == pytest.approx(-0.36)
    assert shown(pair.threshold) == 0.6
    assert "threshold=distance 0.6," in repr(pair)
    assert not pair.training
    by_file = load_pair("dlib", weights=dlib_file())
    assert by_file.threshold == pair.threshold
    assert load_pair("dlib", score="cosine").threshold is None
    with pytest.raises(ValueError, match=r"\(N, 3, 150, 150\), got \(1, 3, 112, 112\)"):
        pair.embed(torch.rand(1, 3, 112, 112))


def test_stages_that_do_not_fit():
    with pytest.raises(ValueError, match="expected images large enough for 3 stages, got size=30"):
        DlibResNet(TINY, 5, 30)
    with pytest.raises(ValueError, match="as many channels or more"):
        DlibResNet(((8, 1), (4, 1)))
