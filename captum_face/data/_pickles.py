"""Pickles read without unpickling them: bytes, numbers and truth values in lists, and nothing else.

Unpickling a file can run any code that its author wrote. Here nothing is unpickled: the file's
instructions are listed (:func:`pickletools.genops`, which only reads) and carried out by a machine of
our own that knows lists, tuples, bytes, text, integers, truth values, and the bytes of numpy arrays.
What it holds is bounded by the file's size, whatever lengths and numbers the file claims.
"""

from __future__ import annotations

import pickletools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Array", "kind_of", "read_pickle"]


def kind_of(value: object) -> str:
    """What a value is, for messages: its type, and the length of a list."""
    if isinstance(value, (list, tuple)):
        return f"a {type(value).__name__} of {len(value)}"
    return "None" if value is None else type(value).__name__.strip("_").lower()


@dataclass
class _Global:
    """The name of something outside that the file asks for; never looked up."""

    name: str


@dataclass
class _Type:
    code: str


@dataclass
class Array:
    """What stands for a numpy array: the code of its type (``"u1"``, ``"b1"``) and its bytes."""

    code: str = ""
    content: bytes = b""

    def fill(self, kind: object, content: object) -> Array:
        if not isinstance(kind, _Type) or not isinstance(content, bytes):
            raise ValueError(f"an array of {kind_of(content)}")
        self.code, self.content = kind.code, content
        return self


# What a pickle written by Python 2 or by numpy calls to build bytes and uint8 arrays.
_ARRAY = "numpy.ndarray"
_DTYPE = "numpy.dtype"
_ENCODE = "_codecs.encode"
_RECONSTRUCT = {f"numpy.{core}.multiarray._reconstruct" for core in ("core", "_core")}
_SCALAR = {f"numpy.{core}.multiarray.scalar" for core in ("core", "_core")}
_FROM_BUFFER = {f"numpy.{core}.numeric._frombuffer" for core in ("core", "_core")}
_KNOWN = {_ARRAY, _DTYPE, _ENCODE} | _RECONSTRUCT | _SCALAR | _FROM_BUFFER

_VALUES = {
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "INT", "LONG"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8"),
}
_CONSTANTS = {"NEWTRUE": True, "NEWFALSE": False, "NONE": None}


class _Refused(Exception):
    """The file asks for what a list of images has no need of."""


def read_pickle(path: Path) -> object:
    """What the pickle in a file holds, of protocol 2 to 5.

    Besides plain values, it reads what Python 2 and numpy write to rebuild bytes and arrays; these
    are known by name, and never looked up or called.

    Raises:
        ValueError: no pickle, a damaged one, or one that holds or asks for anything else.
    """
    with path.open("rb") as file:
        start = file.read(2)
        if len(start) < 2 or start[0] != 0x80 or start[1] > 5:
            raise ValueError(
                f"expected an InsightFace .bin file (a pickle of protocol 2 to 5) at {path}, got bytes "
                f"that start with {start!r}"
            )
        file.seek(0)
        data = file.read()
    machine = _Machine()
    try:
        # Lengths inside the file allocate nothing: what is read comes from these bytes.
        for instruction, argument, _ in pickletools.genops(data):
            machine.step(instruction.name, argument)
        (value,) = machine.stack
    except _Refused as refused:
        raise ValueError(
            f"{path} {refused}, which pairs of images have no need of. Such a file can run code where it is "
            "unpickled: don't trust it. Nothing of it was run"
        ) from None
    except Exception as error:  # broken bytes fail in many ways
        raise ValueError(
            f"could not read {path}: a truncated or damaged file ({error}); check that its download "
            "is complete"
        ) from error
    return value


class _Machine:
    """Carries out the instructions of a pickle that build lists of bytes and truth values."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []  # how long the stack was
        self.memo: dict[int, Any] = {}
        self.encoded: dict[str, bytes] = {}

    def step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _VALUES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name == "BYTEARRAY8":
            stack.append(bytes(argument))
        elif name in ("BINSTRING", "SHORT_BINSTRING"):  # Python 2's bytes, listed as text
            stack.append(argument.encode("latin-1"))
        elif name in ("PROTO", "FRAME", "STOP"):
            pass
        elif name == "MARK":
            self.marks.append(len(stack))
        elif name in ("EMPTY_LIST", "EMPTY_TUPLE"):
            stack.append([] if name == "EMPTY_LIST" else ())
        elif name in ("LIST", "TUPLE"):
            values = self.marked()
            stack.append(values if name == "LIST" else tuple(values))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            stack.append(tuple(self.popped(int(name[-1]))))
        elif name in ("APPEND", "APPENDS"):
            values = self.popped(1) if name == "APPEND" else self.marked()
            if not isinstance(stack[-1], list):
                raise ValueError(f"{name} to {kind_of(stack[-1])}")
            stack[-1].extend(values)
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memo[len(self.memo) if name == "MEMOIZE" else argument] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name == "POP":
            stack.pop()
        elif name == "GLOBAL":
            stack.append(self.known(argument.replace(" ", ".")))
        elif name == "STACK_GLOBAL":
            stack.append(self.known(".".join(self.popped(2))))
        elif name == "REDUCE":
            function, arguments = self.popped(2)
            stack.append(self.called(function, arguments))
        elif name == "BUILD":
            target, state = self.popped(2)
            stack.append(self.built(target, state))
        else:
            raise _Refused(f"holds a pickle's instruction {name}")

    def popped(self, n: int) -> list[Any]:
        values = self.stack[-n:]
        if len(values) < n:
            raise ValueError("too few values")
        del self.stack[-n:]
        return values

    def marked(self) -> list[Any]:
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def known(self, name: str) -> _Global:
        if name not in _KNOWN:
            raise _Refused(f"asks for {name[:100]!r}")
        return _Global(name)

    def called(self, function: object, arguments: Sequence[Any]) -> object:
        name = function.name if isinstance(function, _Global) else kind_of(function)
        if name == _ENCODE and arguments[1] == "latin1":
            text = arguments[0]
            if text not in self.encoded:  # a text that is asked for a million times is held once
                self.encoded[text] = str.encode(text, "latin-1")
            return self.encoded[text]
        if name == _DTYPE:
            code = arguments[0]
            return _Type(code.lstrip("|") if len(code) < 8 else code)  # no copies of long ones
        if name in _RECONSTRUCT and arguments[0] == _Global(_ARRAY):
            return Array()
        if name in _SCALAR and arguments[0] == _Type("b1"):
            return arguments[1] != b"\0"
        if name in _FROM_BUFFER:
            return Array().fill(arguments[1], arguments[0])
        raise _Refused(f"calls {name} with unusual arguments")

    def built(self, target: object, state: Sequence[Any]) -> object:
        if isinstance(target, Array):
            _, _, kind, _, content = state
            target.fill(kind, content)  # in place: the memo may hold it already
        elif not isinstance(target, _Type):
            raise _Refused(f"sets the state of {kind_of(target)}")
        return target
