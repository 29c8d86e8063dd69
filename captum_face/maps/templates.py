"""Where the parts of a face lie in the crops that models expect: the templates of alignment.

Points are ``(x, y)`` in pixels of the crop; the centre of the first pixel is ``(0, 0)``, as OpenCV, dlib and
InsightFace have it. Left and right are the viewer's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from captum_face._validation import require_choice, require_size

__all__ = ["FIVE_POINTS", "TEMPLATES", "Template", "fault_of_points", "resolve_template"]

#: The points that every detector of landmarks knows: centres of the eyes, tip of the nose, corners of the
#: mouth.
FIVE_POINTS = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")


#: Faces whose five points lie within fewer pixels than this are given in other units.
_FEWEST_PIXELS = 2.0
#: How far left and right must be swapped, in distances from the eyes to the mouth, to be called so: in a face
#: seen from the side they lie close together.
_SWAPPED = 0.2


def fault_of_points(points: Mapping[str, tuple[float, float]]) -> str | None:
    """What is wrong with where :data:`FIVE_POINTS` lie, in words; None if they can be those of a face.

    No turn is wrong. No face has left and right swapped, as seen with the eyes above the mouth, and a fit to
    such points would be upside down.
    """
    eye_l, eye_r, nose, mouth_l, mouth_r = (points[name] for name in FIVE_POINTS)
    if max(max(axis) - min(axis) for axis in zip(eye_l, eye_r, nose, mouth_l, mouth_r, strict=True)) < (
        _FEWEST_PIXELS
    ):
        return (
            f"whose landmarks all lie within {_FEWEST_PIXELS:g} pixels; where they are shares of an image's "
            "size, multiply them by its width and height"
        )
    across = [eye_r[i] - eye_l[i] + mouth_r[i] - mouth_l[i] for i in (0, 1)]
    down = [mouth_l[i] + mouth_r[i] - eye_l[i] - eye_r[i] for i in (0, 1)]
    if across[0] * down[1] - across[1] * down[0] < -_SWAPPED * (down[0] ** 2 + down[1] ** 2):
        return (
            "in whose landmarks left and right are swapped; left and right are the viewer's, and points are "
            "(x, y)"
        )
    return None


@dataclass(frozen=True)
class Template:
    """Where landmarks lie in the crops that a model expects.

    Example::

        >>> TEMPLATES["arcface"].resized((224, 224)).points["left_eye"]
        (76.5892, 103.3926)
        >>> round(TEMPLATES["arcface"].resized((112, 96)).points["left_eye"][0], 4)  # 8 pixels less
        30.2946
    """

    name: str
    size: tuple[int, int]  #: height and width of the crop
    points: Mapping[str, tuple[float, float]] = field(repr=False)  #: all of :data:`FIVE_POINTS` at least
    #: The landmarks that a crop is fitted to; None for all of ``points`` that a face has.
    fitted: tuple[str, ...] | None = field(default=None, repr=False)
    #: Whether the fit is that with the least distances in pixels of the photo, as dlib has it, or of the
    #: crop, as InsightFace has it. They differ in scale, the more the less a face is like the template.
    nearest_in_photo: bool = field(default=False, repr=False)
    #: None for crops that are turned upright by their landmarks. A number for crops along the edges of the
    #: box of facenet-pytorch's MTCNN, stretched to the crop's size, as facenet-pytorch makes them: so many
    #: pixels of the crop are added around the box.
    margin: float | None = None

    def __post_init__(self) -> None:
        missing = [name for name in FIVE_POINTS if name not in self.points]
        if missing:
            raise ValueError(
                f"expected a template with the points {', '.join(FIVE_POINTS)}, got none for "
                f"{', '.join(missing)}"
            )
        if fault := fault_of_points(self.points):
            raise ValueError(f"expected a template in pixels of the crop, got {self.name}, {fault}")

    def resized(self, size: int | tuple[int, int] | None) -> Template:
        """The same template in crops of another size: ``(height, width)``, or one number; None for its own.

        Crops are enlarged by the ratio of their longer sides, as InsightFace does it, and narrower or lower
        ones are cut alike on both sides; those along a box are stretched.
        """
        wanted = require_size(size, "size")
        if wanted is None or wanted == self.size:
            return self
        height, width = wanted
        ratio = max(height, width) / max(self.size)
        if self.margin is not None:
            x_ratio, y_ratio = width / self.size[1], height / self.size[0]
            points = {
                name: ((x + 0.5) * x_ratio - 0.5, (y + 0.5) * y_ratio - 0.5)
                for name, (x, y) in self.points.items()
            }
            return replace(self, size=(height, width), points=points, margin=self.margin * ratio)
        left, top = (self.size[1] * ratio - width) / 2, (self.size[0] * ratio - height) / 2
        points = {name: (x * ratio - left, y * ratio - top) for name, (x, y) in self.points.items()}
        return replace(self, size=(height, width), points=points)

    @property
    def eye_distance(self) -> float:
        """Pixels of the crop between the centres of the eyes."""
        (left_x, left_y), (right_x, right_y) = self.points["left_eye"], self.points["right_eye"]
        return float(((right_x - left_x) ** 2 + (right_y - left_y) ** 2) ** 0.5)


#: ArcFace's five points in 112 x 112 pixels, read in InsightFace's ``face_align.py``.
_ARCFACE = {
    "left_eye": (38.2946, 51.6963),
    "right_eye": (73.5318, 51.5014),
    "nose": (56.0252, 71.7366),
    "mouth_left": (41.5493, 92.3655),
    "mouth_right": (70.7299, 92.2041),
}

# dlib's mean face, read in dlib's image_transforms/interpolation.h (get_face_chip_details): four corners of
# the eyes and the base of the nose, to which chips are fitted, and for the five points above the means of the
# 51 inner points of the same mean face. In units of the face, which a padding of 0.25 surrounds in the chip,
# from edge to edge of its pixels.
_DLIB_FACE = {
    "right_eye_outer": (0.8595674595992, 0.2134981538014),
    "right_eye_inner": (0.6460604764104, 0.2289674387677),
    "left_eye_outer": (0.1205750620789, 0.2137274526848),
    "left_eye_inner": (0.3340850613712, 0.2290642403242),
    "nose_base": (0.4901123135679, 0.6277975316475),
    "left_eye": (0.225492, 0.215990),
    "right_eye": (0.754761, 0.215990),
    "nose": (0.490127, 0.515625),
    "mouth_left": (0.254149, 0.780233),
    "mouth_right": (0.726104, 0.780233),
}
_PADDING, _CHIP = 0.25, 150

#: The five points of facenet-pytorch's MTCNN in its own boxes, drawn to 160 x 160 pixels: medians over 226
#: faces of photos and LFW crops, of both sides of the face (docs/studies/photos.py prints them).
_FACENET = {
    "left_eye": (42.0, 61.9),
    "right_eye": (117.0, 61.9),
    "nose": (79.5, 92.7),
    "mouth_left": (45.8, 119.4),
    "mouth_right": (113.2, 119.4),
}

#: The templates that are known by name.
TEMPLATES: dict[str, Template] = {
    "arcface": Template("arcface", (112, 112), _ARCFACE),
    "dlib": Template(
        "dlib",
        (_CHIP, _CHIP),
        {
            name: tuple(_CHIP * (_PADDING + value) / (1 + 2 * _PADDING) - 0.5 for value in point)  # type: ignore[misc]
            for name, point in _DLIB_FACE.items()
        },
        fitted=tuple(_DLIB_FACE)[:5],
        nearest_in_photo=True,
    ),
    "facenet": Template("facenet", (160, 160), _FACENET, margin=0),
}


def resolve_template(template: str | Template) -> Template:
    """Turns a name of :data:`TEMPLATES` into the template and lets a :class:`Template` through.

    Raises:
        ValueError: the name is not known; the message says the nearest one.
        TypeError: neither of the two.
    """
    if isinstance(template, Template):
        return template
    if not isinstance(template, str):
        raise TypeError(
            f"expected a name of a template or a Template, got {type(template).__name__}; known are "
            f"{', '.join(TEMPLATES)}"
        )
    return TEMPLATES[require_choice(template, TEMPLATES, "template")]
