"""Landmarks of a face in a crop: how far they lie from where a template has them, and the face around them.

Coordinates are ``(x, y)`` in pixels of the crop, the centre of the first pixel being ``(0, 0)``. Left and
right are the viewer's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from captum_face.maps.templates import FIVE_POINTS, Template

__all__ = ["Landmarks", "Pose"]

# dlib's mean face, read in dlib's image_transforms/interpolation.h (get_face_chip_details): the 51 inner
# points of the iBUG annotation (brows, nose, eyes, lips), in units of the face.
_MEAN_X = (
    0.000213, 0.075262, 0.181130, 0.290770, 0.393397, 0.586856, 0.689483, 0.799124, 0.904991, 0.980040,
    0.490127, 0.490127, 0.490127, 0.490127, 0.366880, 0.426036, 0.490127, 0.554217, 0.613373, 0.121737,
    0.187122, 0.265825, 0.334606, 0.260918, 0.182743, 0.645647, 0.714428, 0.793132, 0.858516, 0.797510,
    0.719335, 0.254149, 0.340985, 0.428858, 0.490127, 0.551395, 0.639268, 0.726104, 0.642159, 0.556721,
    0.490127, 0.423532, 0.338094, 0.290379, 0.428096, 0.490127, 0.552157, 0.689874, 0.553364, 0.490127,
    0.426890,
)  # fmt: skip
_MEAN_Y = (
    0.106454, 0.038915, 0.018748, 0.034489, 0.077391, 0.077391, 0.034489, 0.018748, 0.038915, 0.106454,
    0.203352, 0.307009, 0.409805, 0.515625, 0.587326, 0.609345, 0.628106, 0.609345, 0.587326, 0.216423,
    0.178758, 0.179852, 0.231733, 0.245099, 0.244077, 0.231733, 0.179852, 0.178758, 0.216423, 0.244077,
    0.245099, 0.780233, 0.745405, 0.727388, 0.742578, 0.727388, 0.745405, 0.780233, 0.864805, 0.902192,
    0.909281, 0.902192, 0.864805, 0.784792, 0.778746, 0.785343, 0.778746, 0.784792, 0.824182, 0.831803,
    0.824182,
)  # fmt: skip
# The jaw, which dlib's mean face lacks: half an ellipse below the eyes, in eye distances. Set by hand.
_JAW_WIDTH, _JAW_DEPTH = 1.15, 1.87


@dataclass(frozen=True)
class Pose:
    """How a face lies in a crop, against a template: moved, and turned and resized about its middle."""

    right: float  #: pixels of the crop
    down: float
    turned: float  #: degrees in (-180, 180], clockwise
    size: float  #: 1 for the template's
    reach: float  #: root mean square of the distances of the template's points from their middle, in pixels
    displacement: float  #: how far that takes the five points on average, in pixels

    def __str__(self) -> str:
        """What is wrong with it: the one of the three that takes points the farthest."""
        moved, angle = math.hypot(self.right, self.down), abs(self.turned)
        turned, resized = math.radians(angle) * self.reach, abs(self.size - 1) * self.reach
        way = "clockwise" if self.turned > 0 else "anticlockwise"
        if angle > 135:
            return "it looks upside down"
        if resized >= max(moved, turned):
            return f"it looks too {'large' if self.size > 1 else 'small'} ({self.size:.2f} times the size)"
        if turned >= moved:
            return f"it looks turned by about {angle:.0f} degrees {way}"
        ways = [
            f"{abs(value):.0f} px {names[value > 0]}"
            for value, names in ((self.right, ("left", "right")), (self.down, ("up", "down")))
            if abs(value) >= moved / 4
        ]
        return f"it looks moved by about {' and '.join(ways)}"


@dataclass(frozen=True, eq=False)
class Landmarks:
    """Where the parts of a face lie in a crop.

    Raises:
        ValueError: points that miss one of :data:`~captum_face.maps.templates.FIVE_POINTS`, that are not
            finite or lie on one spot; an outline of another shape.
    """

    points: Mapping[str, tuple[float, float]]  #: by name
    outline: NDArray[np.float64] | None = None  #: the 68 points of the iBUG annotation ``(68, 2)``, if known

    def __post_init__(self) -> None:
        missing = [name for name in FIVE_POINTS if name not in self.points]
        if missing:
            raise ValueError(f"expected the landmarks {', '.join(FIVE_POINTS)}, got none for {missing[0]}")
        if self.outline is not None and np.shape(self.outline) != (68, 2):
            raise ValueError(f"expected 68 points (68, 2) as outline, got {np.shape(self.outline)}")
        known = self.five if self.outline is None else np.vstack([self.five, self.outline])
        if not np.isfinite(known).all() or np.ptp(self.five, axis=0).max() < 1e-6:
            raise ValueError("expected finite landmarks at different places, got others")

    @property
    def five(self) -> NDArray[np.float64]:
        """The five points ``(5, 2)``."""
        return np.array([self.points[name] for name in FIVE_POINTS], float)

    def distances(self, template: Template) -> dict[str, float]:
        """How far each of the five points lies from the template's, in pixels of the crop."""
        return {name: math.dist(self.points[name], template.points[name]) for name in FIVE_POINTS}

    def pose(self, template: Template) -> Pose:
        """How a face would have to be moved from the template to lie where this one is (least squares).

        What is left of the distances after that is the shape of the face, its expression, and where it looks.
        """
        five = _five(template)
        source, target = _complex(five), _complex(self.five)
        factor, shift = _similarity(source, target)
        middle = complex(target.mean() - source.mean())
        return Pose(
            middle.real,
            middle.imag,
            math.degrees(math.atan2(factor.imag, factor.real)),
            abs(factor),
            float(np.sqrt(((five - five.mean(0)) ** 2).sum(1).mean())),
            float(np.abs(factor * source + shift - source).mean()),
        )

    @property
    def face(self) -> NDArray[np.float64]:
        """The 68 points ``(68, 2)``: the outline, or else those of a mean face around the five."""
        if self.outline is not None:
            return np.asarray(self.outline, float)
        mean = _mean_face()
        factor, shift = _similarity(_complex(_five_of_outline(mean)), _complex(self.five))
        placed = factor * _complex(mean) + shift
        return np.column_stack([placed.real, placed.imag])


def _five(template: Template) -> NDArray[np.float64]:
    return np.array([template.points[name] for name in FIVE_POINTS], float)


def _five_of_outline(face: NDArray[np.float64]) -> NDArray[np.float64]:
    """The five points of the 68, as :data:`~captum_face.maps.templates.FIVE_POINTS` names them."""
    return np.stack([face[36:42].mean(0), face[42:48].mean(0), face[30], face[48], face[54]])


def _mean_face() -> NDArray[np.float64]:
    inner = np.column_stack([_MEAN_X, _MEAN_Y])
    left, right = inner[19:25].mean(0), inner[25:31].mean(0)
    eyes, middle = right[0] - left[0], (left + right) / 2
    angles = np.linspace(0, np.pi, 17)
    jaw = np.column_stack([-_JAW_WIDTH * np.cos(angles), _JAW_DEPTH * np.sin(angles)]) * eyes + middle
    return np.vstack([jaw, inner])


def _complex(points: Any) -> NDArray[np.complex128]:
    return np.asarray(points, float) @ np.array([1, 1j])


def _similarity(source: NDArray[np.complex128], target: NDArray[np.complex128]) -> tuple[complex, complex]:
    """The factor and the shift of complex numbers that take one set of points nearest to another."""
    from_middle, to_middle = source - source.mean(), target - target.mean()
    factor = complex(np.vdot(from_middle, to_middle) / np.vdot(from_middle, from_middle))
    return factor, complex(target.mean() - factor * source.mean())
