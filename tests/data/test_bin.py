from __future__ import annotations

import hashlib
import io
import os
import pickle
import struct
import time
import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image

from captum_face.data import read_bin, read_pairs


def encoded(seed: int, kind: str = "PNG", size: tuple[int, int] = (6, 5)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def black(size: tuple[int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("1", size).save(file, "PNG")
    return file.getvalue()


IMAGES = [encoded(0), encoded(1, "JPEG"), encoded(2), encoded(0)]
LABELS = [True, False]


@pytest.fixture
def write(tmp_path):
    path = tmp_path / "faces.bin"

    def write(content, protocol=4):
        data = content if isinstance(content, bytes) else pickle.dumps(content, protocol=protocol)
        path.write_bytes(data)
        return path

    return write


def assert_right(pairs):
    assert pairs.names == (("image-0000", "image-0001"), ("image-0002", "image-0000"))
    assert pairs.same.tolist() == LABELS
    pixels = np.random.default_rng(2).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    torch.testing.assert_close(pairs[1].image_a, torch.from_numpy(pixels).permute(2, 0, 1).float() / 255)
    assert torch.equal(pairs[1].image_b, pairs[0].image_a)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
    "form",
    [
        bytes,
        lambda data: np.frombuffer(data, dtype=np.uint8),
        lambda data: np.frombuffer(data, dtype=np.uint8).copy()[:, None],
    ],
    ids=["bytes", "array", "column"],
)
@pytest.mark.parametrize(
    "labels",
    [LABELS, [1, 0], tuple(LABELS), np.array(LABELS), list(np.array(LABELS))],
    ids=["list", "integers", "tuple", "array", "numpy-scalars"],
)
def test_forms_that_tools_write(write, protocol, form, labels):
    assert_right(read_bin(write(([form(data) for data in IMAGES], labels), protocol)))
    assert_right(read_pairs(write([[form(data) for data in IMAGES], labels], protocol)))


def test_arrays_of_old_numpy(write):
    data = pickle.dumps(([np.frombuffer(data, dtype=np.uint8) for data in IMAGES], LABELS), protocol=2)
    assert b"numpy._core" in data or b"numpy.core" in data
    assert_right(read_bin(write(data.replace(b"numpy._core", b"numpy.core"))))


def test_files_of_python_2(write):
    """As lfw2pack.py wrote them: protocol 2, where bytes are (BIN)STRING, and a name is given twice."""

    def string(data):
        return (b"U" + bytes([len(data)]) if len(data) < 256 else b"T" + struct.pack("<i", len(data))) + data

    assert max(map(len, IMAGES)) > 255 > min(map(len, IMAGES))
    body = b"".join(string(data) + b"q" + bytes([i + 2]) for i, data in enumerate(IMAGES))
    assert_right(read_bin(write(b"\x80\x02]q\x01(" + body + b"e]q\x09(\x88\x89e\x86q\x0a.")))


def test_an_array_that_is_two_images(write):
    array = np.frombuffer(IMAGES[0], dtype=np.uint8)
    pairs = read_bin(write(([array, array], [True])))
    assert pairs.names == (("image-0000", "image-0000"),)
    assert torch.equal(pairs[0].image_a, pairs[0].image_b)


def test_equal_bytes_are_held_once(write):
    pairs = read_bin(write((IMAGES * 50, LABELS * 50)))
    assert len(pairs) == 100
    assert pairs.image_names == ("image-0000", "image-0001", "image-0002")
    assert len(pairs._images.encoded) == 3
    assert not pairs._images._recent  # nothing is decoded yet
    copy = pickle.loads(pickle.dumps(pairs))
    assert copy.fingerprint() == pairs.fingerprint()
    assert torch.equal(copy[99].image_a, pairs[99].image_a)


def test_the_fingerprint_is_that_of_the_contents(write):
    first = read_bin(write((IMAGES, LABELS), 2)).fingerprint()
    assert read_bin(write((IMAGES, LABELS), 4)).fingerprint() == first
    assert read_bin(write(([encoded(9), *IMAGES[1:]], LABELS))).fingerprint() != first
    assert read_bin(write((IMAGES, LABELS[::-1]))).fingerprint() != first


def test_a_folder_of_images_is_not_for_bin(write, tmp_path):
    with pytest.raises(ValueError, match="expected no folder of images beside .*faces.bin"):
        read_pairs(write((IMAGES, LABELS)), tmp_path)


def test_a_bin_by_its_content(write):
    path = write((IMAGES, LABELS))
    assert_right(read_pairs(path.rename(path.with_name("faces"))))


# --- files that run code where they are unpickled -----------------------------------------------------


class Calls:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class Marked:
    pass


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
    ("make", "asked"),
    [
        (lambda mark: Calls(os.system, f"touch {mark}"), "(posix|nt).system"),
        (lambda mark: Calls(eval, f"open({mark!r}, 'w')"), "(builtins|__builtin__).eval"),
        (lambda mark: Calls(exec, f"open({mark!r}, 'w')"), "(builtins|__builtin__).exec"),
        (lambda mark: Calls(open, mark, "w"), "(_?io|builtins|__builtin__).open"),
        (lambda mark: Calls(np.load, mark), "numpy.load"),
        (lambda mark: Calls(getattr, b"", "hex"), "(builtins|__builtin__).getattr"),
        (lambda mark: Marked(), r"\w*_reconstructor|.*Marked"),
        (lambda mark: torch.zeros(2), "torch.*"),
    ],
    ids=["system", "eval", "exec", "open", "numpy-load", "getattr", "object", "tensor"],
)
@pytest.mark.parametrize("place", ["top", "images", "image", "label", "unused"])
def test_hostile_files_are_refused_and_not_run(write, tmp_path, protocol, make, asked, place):
    mark = str(tmp_path / "it-was-run")
    hostile = make(mark)
    content = {
        "top": hostile,
        "images": (hostile, LABELS),
        "image": ([*IMAGES[:3], hostile], LABELS),
        "label": (IMAGES, [True, hostile]),
        "unused": (IMAGES, LABELS, hostile),
    }[place]
    with pytest.raises(
        ValueError, match=f"faces.bin asks for '({asked})'.*don't trust it. Nothing of it was run"
    ):
        read_bin(write(content, protocol))
    assert not os.path.exists(mark)


def test_hostile_code_before_a_good_pickle_is_found(write, tmp_path):
    """The call's result is thrown away, so what is left is a regular file."""
    mark = tmp_path / "it-was-run"
    command = f"touch {mark}".encode()
    system = f"c{os.system.__module__}\nsystem\n".encode()
    call = system + b"(X" + struct.pack("<I", len(command)) + command + b"tR0"
    data = b"\x80\x02" + call + pickle.dumps((IMAGES, LABELS), protocol=2)[2:]
    assert pickle.loads(data)[1] == LABELS  # it is a regular file, and runs the code
    assert mark.exists()
    mark.unlink()
    with pytest.raises(ValueError, match="asks for '(posix|nt).system'"):
        read_bin(write(data))
    assert not mark.exists()


# What is admitted by name must not open a way to anything else.
@pytest.mark.parametrize(
    ("program", "message"),
    [
        (b"c_codecs\nencode\n(X\x01\0\0\0aX\x04\0\0\0zlibtR.", "calls _codecs.encode with unusual arguments"),
        (b"cnumpy\nndarray\n(K\x05tR.", "calls numpy.ndarray with unusual arguments"),
        (b"cnumpy\ndtype\n(X\x02\0\0\0u1tRcnumpy\ndtype\nR.", "calls type with unusual"),
        (
            b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\ndtype\nK\0C\x01btR.",
            "calls numpy.core.multiarray",
        ),
        (b"cnumpy.core.multiarray\nscalar\n(]K\0tR.", "calls numpy.core.multiarray.scalar"),
        (b"]X\x01\0\0\0a\x86b.", "damaged"),
        (b"]}b.", "EMPTY_DICT"),
        (b"]]b.", "sets the state of a list of 0"),
        (b"cnumpy\ndtype\n)\x81.", "instruction NEWOBJ"),
        (b"(cnumpy\ndtype\no.", "instruction OBJ"),
        (b"(inumpy\ndtype\n.", "instruction INST"),
        (b"P0\n.", "instruction PERSID"),
        (b"K\0Q.", "instruction BINPERSID"),
        (b"\x82\x01.", "instruction EXT1"),
        (b"X\x02\0\0\0osX\x06\0\0\0system\x93.", "asks for 'os.system'"),
        (b"]K\0\x93.", "damaged"),
        (b"cos\nsystem\x1b[2J\n.", r"asks for 'os.system\\x1b\[2J'"),  # no control signs into the terminal
        (b"(d.", "instruction DICT"),
        (b"G" + b"\0" * 8 + b".", "instruction BINFLOAT"),
        (b"\x97.", "instruction NEXT_BUFFER"),
    ],
)
def test_instructions_out_of_place(write, program, message):
    with pytest.raises(ValueError, match=f"faces.bin.*{message}"):
        read_bin(write(b"\x80\x04" + program))


# --- damaged files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("arrays", [False, True])
def test_a_file_cut_anywhere_is_an_error(write, protocol, arrays):
    images = [np.frombuffer(data, dtype=np.uint8) for data in IMAGES] if arrays else IMAGES
    data = pickle.dumps((images, LABELS), protocol=protocol)
    for length in [*range(0, len(data), 41), *range(len(data) - 40, len(data))]:
        with pytest.raises(ValueError, match="faces.bin"):
            read_bin(write(data[:length]))


def test_changed_bytes_give_pairs_or_a_value_error(write):
    data = pickle.dumps((IMAGES, LABELS), protocol=4)
    random = np.random.default_rng(0)
    outcomes = set()
    for _ in range(400):
        changed = bytearray(data)
        for place in random.integers(0, len(data), 3):
            changed[place] = random.integers(0, 256)
        try:
            pairs = read_bin(write(bytes(changed)))
            [pairs[i] for i in range(len(pairs))]
            outcomes.add("read")
        except ValueError:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


@pytest.mark.parametrize(
    "program",
    [
        b"\x8e" + struct.pack("<Q", 2**62) + b"abc.",  # 4 exabytes of bytes
        b"B" + struct.pack("<I", 2**32 - 1) + b"abc.",
        b"T" + struct.pack("<i", 2**31 - 1) + b"abc.",
        b"T" + struct.pack("<i", -5) + b"abc.",
        b"\x8d" + struct.pack("<Q", 2**63) + b"abc.",
        b"\x96" + struct.pack("<Q", 2**40) + b"abc.",
        b"\x8b" + struct.pack("<i", 2**31 - 1) + b"abc.",
        b"\x95" + struct.pack("<Q", 2**62) + b"].",  # a frame
        b"]r" + struct.pack("<I", 2**32 - 1) + b".",  # a memo of 4 billion entries
        b"(" * 200_000 + b"t" * 200_000 + b".",  # a very deep tuple
        b"]" + b"0" * 5 + b".",
        b"(" * 200_000 + b"e" * 200_000 + b".",
        b"V" + b"9" * 10_000 + b"\n.",
        b"I" + b"9" * 10_000 + b"\n.",
        b"]\x94h\x07.",  # a memo that is not there
        b"]\x94h\0a.",  # a list in itself
    ],
)
def test_bombs_are_small_errors(write, program):
    path = write(b"\x80\x04" + program)
    start = time.perf_counter()
    tracemalloc.start()
    with pytest.raises(ValueError, match="faces.bin"):
        read_bin(path)
    assert tracemalloc.get_traced_memory()[1] < 2e8
    tracemalloc.stop()
    assert time.perf_counter() - start < 20


@pytest.mark.parametrize("kind", ["text", "array"])
def test_one_image_asked_for_many_times_is_held_and_looked_at_once(write, monkeypatch, kind):
    """Five bytes of the file ask for 100 kB each: 200 MB, were they all made."""
    image = IMAGES[0] + b"x" * 100_000
    if kind == "text":
        text = image.decode("latin-1").encode()
        data = b"X" + struct.pack("<I", len(text)) + text
        build = b"c_codecs\nencode\nq\0" + data + b"X\6\0\0\0latin1\x86q\2" + b"00"
    else:
        data = b"B" + struct.pack("<I", len(image)) + image
        dtype = b"cnumpy\ndtype\nX\x02\0\0\0u1\x85R"
        build = b"cnumpy.core.numeric\n_frombuffer\nq\0" + data + dtype + b"\x86q\2" + b"00"
    labels = b"](" + b"\x88" * 1000 + b"e"
    path = write(b"\x80\x04" + build + b"](" + b"h\0h\2R" * 2000 + b"e" + labels + b"\x86.")
    hashed = []
    sha256 = hashlib.sha256
    monkeypatch.setattr(hashlib, "sha256", lambda data: hashed.append(len(data)) or sha256(data))
    tracemalloc.start()
    pairs = read_bin(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert pairs.names == (("image-0000", "image-0000"),) * 1000
    assert pairs[999].image_a.shape == (3, 6, 5)
    assert hashed == [len(image)]
    assert peak < 10e6


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            (IMAGES[:3], LABELS),
            "expected two images for each label in .*faces.bin, got 3 images and 2 labels",
        ),
        ((IMAGES[:2], LABELS), "got 2 images and 2 labels"),
        ((IMAGES, [True]), "got 4 images and 1 labels"),
        (([], []), "expected pairs in .*faces.bin, which is empty"),
        ((IMAGES, LABELS, []), r"expected \(images, labels\) in .*faces.bin, got a tuple of 3"),
        (None, r"expected \(images, labels\).*got None"),
        (5, r"expected \(images, labels\).*got int"),
        ((IMAGES[0], LABELS), "expected a list of images in .*, got bytes"),
        ((IMAGES, True), "expected a list of labels in .*, got bool"),
        ((IMAGES, [True, 2]), "expected True or False as label 1 of .*, got 2"),
        ((IMAGES, [-1, True]), "as label 0 of .*, got -1"),
        ((IMAGES, [10**5000, True]), "as label 0 of .*, got int"),
        ((IMAGES, [True, "1"]), "as label 1 of .*, got str"),
        ((IMAGES, [True, None]), "as label 1 of .*, got None"),
        ((IMAGES, np.array([1, 0])), "expected a list of labels in .*, got array"),
        (([*IMAGES[:3], "text"], LABELS), "expected the bytes of an image file as image 3 of .*, got str"),
        (([*IMAGES[:3], [1]], LABELS), "as image 3 of .*, got a list of 1"),
        (([*IMAGES[:3], np.zeros(4)], LABELS), "as image 3 of .*, got array"),
        (
            ([*IMAGES[:3], b"GIF89a...."], LABELS),
            r"a JPEG or PNG file as image 3 of .* \(pair 1\), got 10 bytes",
        ),
        (([*IMAGES[:3], b""], LABELS), "image 3"),
        (([*IMAGES[:2], IMAGES[2][:20], IMAGES[3]], LABELS), "a JPEG or PNG file as image 2 of"),
        (
            ([IMAGES[0], black((5000, 4000))], [True]),
            "at most 16777216 pixels as image 1 of .*got 4000x5000",
        ),
    ],
)
@pytest.mark.parametrize("protocol", [3, 4])
def test_contents_that_are_no_pairs(write, content, message, protocol):
    with pytest.raises(ValueError, match=message):
        read_bin(write(content, protocol))


def test_other_formats_than_jpeg_and_png_are_left_alone(write):
    """Pillow would hand EPS to Ghostscript."""
    eps = io.BytesIO()
    Image.new("RGB", (6, 5)).save(eps, "EPS")
    with pytest.raises(ValueError, match="expected a JPEG or PNG file as image 1"):
        read_bin(write(([IMAGES[0], eps.getvalue()], [True])))


@pytest.mark.parametrize("image", [encoded(4, size=(60, 60)), encoded(5, "JPEG", (60, 60))])
def test_an_image_that_breaks_off_is_named_when_it_is_read(write, image):
    pairs = read_bin(write(([*IMAGES[:3], image[:-1000]], LABELS)))
    pairs[0]
    with pytest.raises(
        ValueError, match=r"pair 1 \(images 2 and 3 of .*faces.bin\): could not decode image-0003"
    ):
        pairs[1]


def test_files_that_are_no_bin(write, tmp_path):
    for data in (b"", b"\x80", b"PK\x03\x04", b"\x80\x09.", pickle.dumps((IMAGES, LABELS), protocol=0)):
        with pytest.raises(
            ValueError, match=r"expected an InsightFace .bin file \(a pickle of protocol 2 to 5\)"
        ):
            read_bin(write(data))
    with pytest.raises(FileNotFoundError, match="expected a .bin file of pairs, found nothing at .*none.bin"):
        read_pairs(tmp_path / "none.bin")
    with pytest.raises(FileNotFoundError, match="found a folder"):
        read_bin(tmp_path)
