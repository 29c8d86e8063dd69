"""The layers of a network file of dlib, in their order of execution. Reading executes nothing from the file.

dlib writes a network as its C++ types are nested. First come the version numbers of all layers, the last
layer first, then how images are prepared, and then what each layer holds, the first layer first. Whole
numbers have a byte with their length and sign and then their bytes, the lowest first; real numbers are two
such, mantissa and exponent; tensors are float32 after their four sizes.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["DlibFile", "DlibLayer", "read_dlib_file"]

_PYTORCH = "Weights of PyTorch are loaded by load_weights(DlibResNet(), {path!r})"
# Files that are often taken for a network, by their first bytes.
_OTHERS = {
    b"BZh": "compressed by bzip2, as dlib.net serves it; unpack it first: bunzip2 {name}",
    b"PK\x03\x04": f"a zip archive. {_PYTORCH}",
    b"\x80": f"a pickle. {_PYTORCH}",
    b"\x1f\x8b": "compressed by gzip; unpack it first",
    b"<": "a web page or XML",
    b"version https://git-lfs": "a pointer of Git LFS to a file that was not fetched",
}
# Versions of dlib's classes that this reader knows.
_LOSS, _TAG, _LAYER, _FIRST, _TENSOR, _ALIAS = 1, 1, 2, 3, 2, 1
#: What stands for a layer that only marks a place.
TAG = "tag"
# No layer of a network whose images and embeddings are of the order of 1 has such weights.
_LARGEST = 1e5


class DlibLayer(NamedTuple):
    """One layer of the file."""

    kind: str  #: ``con``, ``affine``, ``relu``, ``max_pool``, ``avg_pool``, ``add_prev``, ``fc`` or ``tag``
    sizes: tuple[int, ...] = ()  #: its whole numbers, in the order of the file
    weights: Tensor = torch.empty(0)  #: float32; empty where it has none
    bias: Tensor = torch.empty(0)


class DlibFile(NamedTuple):
    """What :func:`read_dlib_file` found."""

    means: tuple[float, ...]  #: of red, green and blue in 0..255, taken from images before they are over 256
    size: tuple[int, int]  #: height and width of its images
    layers: tuple[DlibLayer, ...]  #: in their order of execution


def read_dlib_file(path: Path) -> DlibFile:
    """Reads a network with a metric loss, as dlib's face recognition network is.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, cut, of another kind, or of a version that is not known.
    """
    if not path.is_file():
        what = "a folder" if path.is_dir() else "nothing"
        raise FileNotFoundError(f"expected a network file of dlib (.dat) at {path}, found {what}")
    if path.stat().st_size == 0:
        raise ValueError(f"expected a network file of dlib, got {path}, which is empty")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for start, what in _OTHERS.items():
            if content[: len(start)] == start:
                found = what.format(name=path.name, path=str(path))
                raise ValueError(f"expected a network file of dlib, got {path}, which is {found}")
        reader = _Reader(content)
        try:
            return reader.network()
        except _Damage as damage:
            raise ValueError(
                f"cannot read dlib's face recognition network from {path}: {damage} (byte {reader.place} of "
                f"{len(content)}); the file is damaged, cut, or holds something else"
            ) from None


class _Damage(Exception):
    """What does not fit in a file: "expected ..., got ..."."""


class _Reader:
    """Reads a file from its start, one value after the other."""

    def __init__(self, content: mmap.mmap) -> None:
        self.content, self.place = content, 0

    def take(self, size: int, what: str) -> bytes:
        left = len(self.content) - self.place
        if size > left:
            raise _Damage(f"expected {size} more bytes of {what}, got {left}")
        start, self.place = self.place, self.place + size
        return self.content[start : self.place]

    def whole(self, what: str) -> int:
        (head,) = self.take(1, what)
        size, negative = head & 0x7F, head & 0x80
        if not 1 <= size <= 8:
            raise _Damage(f"expected {what}, a whole number of 1 to 8 bytes, got {size} bytes")
        digits = self.take(size, what)
        if size > 1 and digits[-1] == 0:
            raise _Damage(f"expected {what} in as few bytes as it needs, got leading zeros")
        value = int.from_bytes(digits, "little")
        return -value if negative else value

    def real(self, what: str) -> float:
        mantissa, exponent = self.whole(what), self.whole(what)
        if abs(exponent) > 2000:  # dlib writes infinite values and NaN so
            raise _Damage(f"expected {what}, a finite number, got the exponent {exponent}")
        try:
            return math.ldexp(mantissa, exponent)
        except OverflowError:
            raise _Damage(f"expected {what}, a finite number, got one that is too large") from None

    def text(self, what: str) -> str:
        size = self.whole(f"the length of {what}")
        if not 0 < size <= 64:
            raise _Damage(f"expected {what} of 1 to 64 letters, got {size}")
        return self.take(size, what).decode("ascii", "backslashreplace")

    def flag(self, what: str) -> bool:
        value = self.take(1, what)
        if value not in (b"0", b"1"):
            raise _Damage(f"expected {what}, 0 or 1, got {value!r}")
        return value == b"1"

    def expect(self, value: int, what: str) -> None:
        got = self.whole(what)
        if got != value:
            raise _Damage(f"expected {what} {value}, got {got}")

    def shape(self, version: int, what: str) -> tuple[int, ...]:
        self.expect(version, f"the version of {what}")
        shape = tuple(self.whole(f"a size of {what}") for _ in range(4))
        if min(shape) < 0:
            raise _Damage(f"expected sizes of {what}, got {shape}")
        return shape

    def tensor(self, what: str) -> Tensor:
        shape = self.shape(_TENSOR, what)
        content = self.take(4 * math.prod(shape), what)
        values = torch.frombuffer(bytearray(content), dtype=torch.float32) if content else torch.empty(0)
        largest = float(values.abs().amax()) if content else 0.0
        if not largest <= _LARGEST:  # NaN is not either
            raise _Damage(f"expected values of {what} within {_LARGEST:g}, got {largest:g}")
        return values

    def network(self) -> DlibFile:
        self.expect(_LOSS, "the version of the loss")
        name = self.text("the name of the loss")
        if name != "loss_metric_2":
            raise _Damage(f"expected a network with the loss loss_metric_2, got {name!r}")
        self.real("the margin of the loss")
        self.real("the distance of the loss")
        nested = [self.whole("the version of a layer")]
        while nested[-1] != _FIRST:
            if nested[-1] not in (_TAG, _LAYER):
                raise _Damage(f"expected the version of a layer, {_TAG} to {_FIRST}, got {nested[-1]}")
            nested.append(self.whole("the version of a layer"))
        kind = self.text("the name of the input")
        if kind != "input_rgb_image_sized":
            raise _Damage(f"expected images of a fixed size, input_rgb_image_sized, got {kind!r}")
        means = tuple(self.real(f"the mean of {colour}") for colour in ("red", "green", "blue"))
        size = self.whole("the height of images"), self.whole("the width of images")
        layers = tuple(
            DlibLayer(TAG) if version == _TAG else self.layer(number, first=version == _FIRST)
            for number, version in enumerate(reversed(nested), 1)
        )
        left = len(self.content) - self.place
        if left:
            raise _Damage(f"expected the end of the file after the last layer, got {left} more bytes")
        return DlibFile(means, size, layers)

    def layer(self, number: int, *, first: bool) -> DlibLayer:
        name = self.text(f"the name of layer {number}")
        if name not in _KINDS:
            known = ", ".join(_KINDS)
            raise _Damage(f"expected layer {number} to be one of {known}, got {name!r}")
        layer = _KINDS[name](self, f"layer {number} ({name})")
        for what in ("is set up", "has a stale gradient", "works in place"):
            self.flag(f"whether layer {number} {what}")
        for what in ("gradient", "output", "gradient of the weights"):  # empty, but in the middle of training
            self.tensor(f"the {what} of layer {number}")
        if first:
            self.expect(1, "the number of images that an image becomes")
        return layer

    def factors(self, what: str) -> None:
        """What training multiplies its steps by."""
        for _ in range(4):
            self.real(f"a factor of {what}")

    def parts(self, what: str, values: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The shapes of weights and bias, which follow each other in one tensor."""
        weights, bias = (self.shape(_ALIAS, f"the {part} of {what}") for part in ("weights", "bias"))
        if math.prod(weights) + math.prod(bias) != len(values):
            raise _Damage(f"expected {what} to hold {weights} and {bias}, got {len(values)} values")
        return weights, bias

    def convolution(self, what: str, version: int) -> DlibLayer:
        values = self.tensor(what)
        sizes = tuple(self.whole(f"a size of {what}") for _ in range(7))
        weights, bias = self.parts(what, values)
        self.factors(what)
        if version >= 5 and not self.flag(f"whether {what} has a bias"):
            raise _Damage(f"expected {what} with a bias, got none")
        if version >= 6 and self.flag(f"whether {what} has a ReLU of its own"):
            raise _Damage(f"expected {what} without a ReLU of its own, got one")
        count = math.prod(weights)
        return DlibLayer("con", sizes, values[:count].reshape(weights), values[count:].reshape(bias))

    def affine(self, what: str) -> DlibLayer:
        values = self.tensor(what)
        scale, shift = self.parts(what, values)
        self.expect(0, f"the mode of {what}")  # one scale for a channel
        count = math.prod(scale)
        return DlibLayer("affine", (), values[:count].reshape(scale), values[count:].reshape(shift))

    def linear(self, what: str, version: int) -> DlibLayer:
        sizes = self.whole(f"the outputs of {what}"), self.whole(f"the inputs of {what}")
        values = self.tensor(what)
        weights, _ = self.parts(what, values)
        self.expect(1, f"the mode of {what}")  # no bias
        self.factors(what)
        if version >= 3:
            self.flag(f"whether {what} uses its bias")
        return DlibLayer("fc", sizes, values.reshape(weights[:2]))

    def pool(self, what: str, kind: str) -> DlibLayer:
        return DlibLayer(kind, tuple(self.whole(f"a size of {what}") for _ in range(6)))


# By the names that dlib's versions write.
_KINDS: dict[str, Callable[[_Reader, str], DlibLayer]] = {
    "con_4": lambda reader, what: reader.convolution(what, 4),
    "con_5": lambda reader, what: reader.convolution(what, 5),
    "con_6": lambda reader, what: reader.convolution(what, 6),
    "affine_": lambda reader, what: reader.affine(what),
    "relu_": lambda reader, what: DlibLayer("relu"),
    "max_pool_2": lambda reader, what: reader.pool(what, "max_pool"),
    "avg_pool_2": lambda reader, what: reader.pool(what, "avg_pool"),
    "add_prev_": lambda reader, what: DlibLayer("add_prev"),
    "fc_2": lambda reader, what: reader.linear(what, 2),
    "fc_3": lambda reader, what: reader.linear(what, 3),
}
