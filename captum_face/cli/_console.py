"""Printing to any console: signs that its encoding lacks are written in others, and nothing dies of it."""

from __future__ import annotations

import codecs
import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

__all__ = ["any_console"]

#: What stands for signs in consoles that lack them; all others are written as their number, ``\\u4e2d``.
SPELLED = {
    "≥": ">=",
    "≤": "<=",
    "±": "+-",
    "×": "x",
    "·": "*",
    "→": "->",
    "–": "-",
    "—": "-",
    "−": "-",
    "²": "^2",
    "↑": "^",
    "↓": "v",
    "✓": "+",
    "✗": "-",
    "…": "...",
    "‘": "'",
    "’": "'",
    "“": '"',
    "”": '"',
    "█": "#",
    **dict.fromkeys("▏▎▍▌▋▊▉", " "),  # parts of a step in a progress bar
}


def _spell(error: UnicodeError) -> tuple[str, int]:
    """Handler of what cannot be encoded, see :func:`codecs.register_error`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    signs = error.object[error.start : error.end]
    return "".join(
        SPELLED.get(sign) or sign.encode("ascii", "backslashreplace").decode() for sign in signs
    ), error.end


codecs.register_error("captum_face.spell", _spell)


class _Console:
    """A text stream that takes every sign, and goes on in silence when nobody reads it any more."""

    # click writes UTF-8 to streams that call themselves ASCII; here nothing needs that.
    encoding = "utf-8"

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        with suppress(LookupError):  # an encoding that only the stream knows
            text = text.encode(encoding, "captum_face.spell").decode(encoding)
        with self._readers_may_leave():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._readers_may_leave():
            self._stream.flush()

    @contextmanager
    def _readers_may_leave(self) -> Iterator[None]:
        """As in ``captum-face explain ... | head -1``: what is left to compute and save is still done."""
        try:
            yield
        except OSError as error:
            if error.errno != errno.EPIPE:
                raise
            # So that Python does not complain at its end about what it could not write.
            with suppress(OSError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)


@contextmanager
def any_console() -> Iterator[None]:
    """While it lasts, standard output and standard error take every sign, whatever their encoding."""
    before = sys.stdout, sys.stderr
    # Without a console, as under pythonw, there is no stream at all.
    sys.stdout, sys.stderr = (None if stream is None else _Console(stream) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
