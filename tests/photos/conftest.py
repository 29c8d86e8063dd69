"""Photos with faces whose landmarks are known, as no network has to find them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from captum_face.maps.templates import FIVE_POINTS, TEMPLATES, Template
from captum_face.photos import Face, Photo
from captum_face.photos._warping import apply


@dataclass
class Planted:
    """A detector that answers with faces it was told of."""

    faces: list[dict] = field(default_factory=list)
    seen: list[Photo] = field(default_factory=list)

    def find(self, photo: Photo) -> list[Face]:
        self.seen.append(photo)
        return [Face(photo, **face) for face in self.faces]


def similarity(degrees: float, scale: float, x: float, y: float) -> np.ndarray:
    """Turned, enlarged and moved: ``(2, 3)``, from a crop to the photo."""
    cosine, sine = (scale * f(math.radians(degrees)) for f in (math.cos, math.sin))
    return np.array([[cosine, -sine, x], [sine, cosine, y]])


def placed(template: str | Template, to_photo: np.ndarray) -> dict:
    """A face whose landmarks lie where the transform takes the template's."""
    points = (TEMPLATES[template] if isinstance(template, str) else template).points
    places = apply(to_photo, [*points.values()])
    left, top = places.min(0)
    right, bottom = places.max(0)
    return {
        "box": (left, top, right, bottom),
        "landmarks": {name: (x, y) for name, (x, y) in zip(points, places.tolist(), strict=True)},
    }


def five(*points: float) -> dict[str, tuple[float, float]]:
    """Landmarks by name of ten numbers."""
    return dict(zip(FIVE_POINTS, zip(points[::2], points[1::2], strict=True), strict=True))
