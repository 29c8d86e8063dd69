"""Faces found in a photo, and what cuts them out of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from captum_face.maps.templates import FIVE_POINTS, Template, resolve_template
from captum_face.photos._warping import fit, inverted, warp
from captum_face.photos.photo import Photo

__all__ = ["Face"]


@dataclass(frozen=True, eq=False, repr=False)
class Face:
    """A face in a photo; made by :func:`~captum_face.photos.find_faces`.

    Everything is in pixels of the upright photo, the centre of the first pixel being ``(0, 0)``. Left and
    right are the viewer's.
    """

    photo: Photo
    box: tuple[float, float, float, float]  #: left, top, right and bottom
    #: ``(x, y)`` by name: :data:`FIVE_POINTS`, and for some detectors more.
    landmarks: Mapping[str, tuple[float, float]]
    confidence: float | None = None  #: in the detector's own units, higher is surer; None if it has none
    #: The 68 points of the iBUG annotation ``(68, 2)``; None if the detector does not know them.
    outline: NDArray[np.float64] | None = field(default=None)
    #: Whether the box is of facenet-pytorch's MTCNN, along which the template ``"facenet"`` cuts. For other
    #: faces that box is estimated from the landmarks.
    mtcnn: bool = field(default=False)

    def __repr__(self) -> str:
        box = ", ".join(f"{value:.0f}" for value in self.box)
        return f"Face(box=({box}) of {self.photo.name})"

    @property
    def eye_distance(self) -> float:
        """Pixels of the photo between the centres of the eyes."""
        return math.dist(self.landmarks["left_eye"], self.landmarks["right_eye"])

    def transform(
        self, template: str | Template = "arcface", size: int | tuple[int, int] | None = None
    ) -> NDArray[np.float64]:
        """The transform ``(2, 3)`` that takes points ``(x, y)`` of the photo to the crop.

        Args:
            template: A name of :data:`TEMPLATES`, or a template of your own.
            size: Height and width of the crop, or one number for both; None for the template's.

        Raises:
            ValueError: no such template; landmarks that all lie on one spot.
        """
        chosen = resolve_template(template).resized(size)
        if chosen.margin is not None:
            return _box_transform(self, chosen)
        names = [name for name in chosen.fitted or chosen.points if name in self.landmarks]
        if len(names) < len(chosen.fitted or ()):
            names = [*FIVE_POINTS]
        own, wanted = (
            np.array([points[name] for name in names]) for points in (self.landmarks, chosen.points)
        )
        return inverted(fit(wanted, own)) if chosen.nearest_in_photo else fit(own, wanted)

    def inverse(
        self, template: str | Template = "arcface", size: int | tuple[int, int] | None = None
    ) -> NDArray[np.float64]:
        """The transform ``(2, 3)`` that takes points ``(x, y)`` of the crop to the photo."""
        return inverted(self.transform(template, size))

    def crop(self, template: str | Template = "arcface", size: int | tuple[int, int] | None = None) -> Tensor:
        """The aligned crop ``(1, 3, H, W)`` in [0, 1], RGB; black where the photo ends.

        Arguments are those of :meth:`transform`. Antialiased where the photo shrinks.
        """
        matrix = self.transform(template, size)
        drawn = warp(self.photo.pixels, matrix, resolve_template(template).resized(size).size)
        return torch.from_numpy(np.clip(drawn / 255, 0, 1)).permute(2, 0, 1)[None].contiguous()


def _box_transform(face: Face, template: Template) -> NDArray[np.float64]:
    """facenet-pytorch's crop: MTCNN's box with a margin, cut at the photo's border, not turned."""
    height, width = template.size
    left, top, right, bottom = face.box if face.mtcnn else _mtcnn_box(face.landmarks, template)
    margin = template.margin or 0.0
    wider = [margin * (right - left) / (width - margin), margin * (bottom - top) / (height - margin)]
    tall, wide = face.photo.size
    left, top = int(max(left - wider[0] / 2, 0)), int(max(top - wider[1] / 2, 0))
    right, bottom = int(min(right + wider[0] / 2, wide)), int(min(bottom + wider[1] / 2, tall))
    x, y = width / (right - left), height / (bottom - top)
    # From edges of pixels to their centres, as resizing counts them.
    return np.array([[x, 0, (0.5 - left) * x - 0.5], [0, y, (0.5 - top) * y - 0.5]])


def _mtcnn_box(
    landmarks: Mapping[str, tuple[float, float]], template: Template
) -> tuple[float, float, float, float]:
    """Where MTCNN's box would be, from eyes, nose and mouth.

    Its size is that in which eyes and mouth are as far apart as the template says. Its middle moves away
    from the nose where a face is turned to the side, as the box reaches to the ear that is seen.
    """
    margin = template.margin or 0.0
    inner = np.array(template.size[::-1], float) - margin
    known = (np.array([template.points[name] for name in FIVE_POINTS]) + 0.5 - margin / 2) / inner
    known *= (_MTCNN_ASPECT, 1)  # of a box of height 1
    points = np.array([landmarks[name] for name in FIVE_POINTS]) + 0.5
    around = [i for i, name in enumerate(FIVE_POINTS) if name != "nose"]
    middle, known_middle = points[around].mean(0), known[around].mean(0)
    high = np.linalg.norm(points[around] - middle) / np.linalg.norm(known[around] - known_middle)
    if not high > 0:
        raise ValueError("expected landmarks at different places, got all of them on one spot")
    nose = points[FIVE_POINTS.index("nose"), 0] - middle[0]
    left, top = middle - (_MTCNN_AWAY * nose, 0) - high * known_middle
    return float(left), float(top), float(left + high * _MTCNN_ASPECT), float(top + high)


#: Width by height of MTCNN's boxes, and how far their middle lies from that of eyes and mouth, in what the
#: nose lies to the other side of it: the median, and the slope, over the faces of the template.
_MTCNN_ASPECT, _MTCNN_AWAY = 0.743, 1.2
