"""What callers choose of how a figure looks: colours, opacity, contours, and where it is drawn."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure, SubFigure

from captum_face._validation import require_positive

__all__ = [
    "AGAINST",
    "FOR",
    "AnyFigure",
    "Look",
    "Place",
    "require_figsize",
    "require_no_axes",
    "require_place",
    "root",
]

# Red against, blue for: told apart with any colour vision.
AGAINST, FOR = (np.array(to_rgb(colour)) for colour in ("#b2182b", "#2166ac"))
_COLOURS = LinearSegmentedColormap.from_list("against_for", [tuple(AGAINST), "white", tuple(FOR)])
_OPACITY = 0.85  # of the strongest colour, so that the face shows through
_LINES = 0.5  # contours: the share of the scale that they enclose

#: What a figure is drawn into.
AnyFigure: TypeAlias = Figure | SubFigure
#: Where a figure is drawn: into a figure or subfigure, or into axes.
Place: TypeAlias = Figure | SubFigure | Axes | Sequence[Any] | np.ndarray


@dataclass(frozen=True)
class Look:
    """Colours, opacity and contours of maps; made by :meth:`of`."""

    colours: Colormap | None = None  #: None for the two ends of the default, faded by opacity alone
    opacity: float = _OPACITY
    level: float | None = None  #: share of the scale that contours enclose; None for no contours

    @classmethod
    def of(cls, cmap: str | Colormap | None, alpha: float | None, contour: bool | float) -> Look:
        """What a caller asks for.

        Raises:
            TypeError: another type.
            ValueError: no such colormap, or a number outside (0, 1].
        """
        level = _LINES if contour is True else None if contour is False else _share(contour, "contour")
        if level == 1:
            raise ValueError("expected contour below 1, the end of the scale, got 1")
        return cls(_colormap(cmap), _OPACITY if alpha is None else _share(alpha, "alpha"), level)

    @property
    def scale(self) -> Colormap:
        """The colours of the colour bar."""
        return self.colours or _COLOURS

    def over(self, grey: np.ndarray, signed: np.ndarray) -> np.ndarray:
        """Colours over a picture, as opaque as the relevance is strong; ``signed`` in [-1, 1]."""
        strength = np.clip(np.abs(signed), 0, 1)[..., None]
        if self.colours is None:
            colour = np.where(signed[..., None] > 0, FOR, AGAINST)
        else:
            colour = self.colours(0.5 + 0.5 * np.clip(signed, -1, 1))[..., :3]
        return np.clip(grey * (1 - self.opacity * strength) + colour * self.opacity * strength, 0, 1)

    def lines(self, axis: Axes, signed: np.ndarray) -> None:
        """Contours around what is stronger than the level."""
        strength = np.abs(signed)
        if self.level is not None and strength.min() < self.level < strength.max():
            axis.contour(strength, levels=[self.level], colors="black", linewidths=0.7)


def require_figsize(figsize: object, default: tuple[float, float], axes: object) -> tuple[float, float]:
    """Width and height in inches.

    Raises:
        TypeError, ValueError: no two positive numbers, or given for a place that has its size.
    """
    if figsize is None:
        return default
    if axes is not None:
        raise ValueError("expected figsize or axes, got both; the figure of the axes has its own size")
    if not isinstance(figsize, (tuple, list)) or len(figsize) != 2:
        raise TypeError(f"expected figsize as (width, height) in inches, got {figsize!r}")
    width, height = (require_positive(side, "figsize") for side in figsize)
    return width, height


def require_place(axes: Place, rows: int, columns: int) -> tuple[AnyFigure, np.ndarray | None]:
    """The figure to draw into, and its axes ``(rows, columns)`` where a caller gives axes.

    Raises:
        TypeError: neither a figure nor axes.
        ValueError: another number of axes, or of several figures.
    """
    wanted = f"a figure, a subfigure, or {rows} x {columns} axes of one figure"
    if isinstance(axes, (Figure, SubFigure)):
        return axes, None
    given = np.asarray(axes, dtype=object)
    if given.size == 0 or not all(isinstance(axis, Axes) for axis in given.flat):
        raise TypeError(f"expected axes as {wanted}, got {type(axes).__name__}")
    if given.size != rows * columns:
        raise ValueError(f"expected axes as {wanted}, got {given.size} axes")
    figures = {axis.figure for axis in given.flat}
    if len(figures) > 1:
        raise ValueError(f"expected axes as {wanted}, got axes of {len(figures)} figures")
    return figures.pop(), given.reshape(rows, columns)


def require_no_axes(axes: object) -> None:
    """Looks whether a place is one that a figure lays out by itself.

    Raises:
        TypeError: it is no figure.
    """
    if axes is not None and not isinstance(axes, (Figure, SubFigure)):
        raise TypeError(
            f"expected axes as a figure or subfigure, got {type(axes).__name__}; "
            "figure.subfigures() makes subfigures"
        )


def root(figure: AnyFigure) -> Figure:
    """The figure that a subfigure is part of."""
    while not isinstance(figure, Figure):
        figure = figure.figure
    return figure


def _share(value: object, what: str) -> float:
    number = require_positive(value, what)
    if number > 1:
        raise ValueError(f"expected {what} of at most 1, got {value!r}")
    return number


def _colormap(cmap: str | Colormap | None) -> Colormap | None:
    if cmap is None or isinstance(cmap, Colormap):
        return cmap
    if not isinstance(cmap, str):
        raise TypeError(f"expected cmap as a name of matplotlib.colormaps or a Colormap, got {cmap!r}")
    if cmap not in matplotlib.colormaps:
        near = difflib.get_close_matches(cmap, list(matplotlib.colormaps), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"unknown colormap {cmap!r}: expected a diverging one of matplotlib.colormaps, such as "
            f"'PuOr'{hint}"
        )
    return matplotlib.colormaps[cmap]
