"""Figures that look alike whatever the user's rcParams are, and that show themselves in a notebook."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import matplotlib
from matplotlib.figure import Figure

__all__ = ["PairFigure", "own_style", "png_of", "styled"]

P = ParamSpec("P")
R = TypeVar("R")

# What the user's rcParams keep deciding: fonts, for names in any script; how fonts go into files; resolution.
_USERS = (
    "font.family", "font.serif", "font.sans-serif", "font.cursive", "font.fantasy", "font.monospace",
    "pdf.", "ps.", "svg.", "savefig.dpi", "savefig.directory", "backend", "interactive", "toolbar", "webagg.",
    "tk.", "macosx.", "keymap.", "figure.max_open_warning", "figure.raise_window", "date.", "docstring.",
    "timezone", "animation.",
)  # fmt: skip
# What decides how pictures lie in axes, and how texts are set.
_PICTURES = ("image.", "contour.", "text.usetex", "text.parse_math", "axes.grid", "axes.title", "mathtext.")
_SCREEN = 110  # dots an inch of a picture in a notebook
# rcParams belong to the whole process: one figure at a time is drawn in a style that is not the user's.
_LOCK = threading.RLock()


@contextmanager
def own_style(only: tuple[str, ...] = ("",)) -> Iterator[None]:
    """matplotlib's defaults in place of the user's rcParams, but for fonts and the like.

    Args:
        only: How the names of those begin that are replaced.
    """
    with _LOCK:
        own = {
            name: value
            for name, value in matplotlib.rcParamsDefault.items()
            if name.startswith(only) and not name.startswith((*_USERS, "_"))
        }
        with matplotlib.rc_context(own):
            yield


def styled(show: Callable[P, R]) -> Callable[P, R]:
    """A function that draws in the own style, and into axes of a caller in the caller's, pictures upright."""

    @wraps(show)
    def drawn(*args: P.args, **options: P.kwargs) -> R:
        with own_style(_PICTURES if options.get("axes") is not None else ("",)):
            return show(*args, **options)

    return drawn


class PairFigure(Figure):
    """A matplotlib :class:`~matplotlib.figure.Figure` outside of pyplot's state that a notebook shows.

    It is drawn and saved in matplotlib's default style, whatever ``rcParams`` say: a dark style, LaTeX or
    ``image.origin`` change nothing. Fonts (``font.family`` and the lists of its families), ``savefig.dpi``
    and how fonts go into files (``pdf.*``, ``ps.*``, ``svg.*``) stay the user's. Saved twice, it gives the
    same file, byte for byte.
    """

    def savefig(self, fname: Any, **options: Any) -> None:
        """As :meth:`matplotlib.figure.Figure.savefig`; PDF and SVG files carry no date unless asked to."""
        kind = str(options.get("format") or getattr(fname, "suffix", "") or fname).lower()
        dates = {"svg": "Date", "pdf": "CreationDate"}
        date = next((entry for end, entry in dates.items() if kind.endswith(end)), None)
        if date is not None:
            options["metadata"] = {date: None, **(options.get("metadata") or {})}
        with own_style(), matplotlib.rc_context({"svg.hashsalt": "captum_face"}):
            super().savefig(fname, **options)

    def _repr_png_(self) -> bytes:
        return png_of(self)


def png_of(figure: Figure) -> bytes:
    """What a notebook shows of a figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_SCREEN)
    return buffer.getvalue()
