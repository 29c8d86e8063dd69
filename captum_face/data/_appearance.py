"""Does an image look like a face in ArcFace's alignment? The check where no landmarks are found.

It compares where an image is darker or brighter than its surroundings with where faces are: dark eyes, brows,
nostrils and mouth, bright cheeks, forehead, chin and ridge of the nose, drawn around the five points of
ArcFace's template. No photo went into the drawing. An aligned face also fits better as it is than moved,
turned or resized a little: what a near pose fits better counts against it.

It sees faces that are clearly misplaced and images that hold no face. It does not see shifts of a few pixels,
and it takes some aligned faces in profile or in the dark for misplaced ones: the rates are on the page on
alignment (``docs/studies/alignment.py`` prints them).
"""

from __future__ import annotations

import itertools
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from captum_face.data.faces import render_faces
from captum_face.maps.signed import smooth
from captum_face.maps.templates import TEMPLATES

__all__ = ["LIMIT", "SMALLEST", "Merit", "merits"]

LANDMARKS, TEMPLATE_SIZE = TEMPLATES["arcface"].points, 112

#: Images below this figure of merit fail; about one of twenty aligned photos has less.
LIMIT = 0.2
#: The side at which images are compared, and the least side of an image that can pass. Eyes and mouth are
#: features of a few such pixels.
SMALLEST = 28
#: What a better fit of a near pose counts.
_PENALTY = 0.5
#: A face that passes is rendered if it fits the mean of rendered ones better than the drawn photo by this.
_RENDERED = 0.1
#: A pose is named if it fits as well as this, and better by the second than the image as it is.
_CLEAR, _GAIN = 0.4, 0.15
#: Middle of the face in pixels of the template, and the Gaussian around it that says how much pixels count.
_CENTRE, _REACH = (56, 64), 22.4


class _Part(NamedTuple):
    """A Gaussian of the drawn face, in pixels of the 112 x 112 template."""

    x: float
    y: float
    width: float
    height: float
    brightness: float


def _face() -> tuple[_Part, ...]:
    (left_x, left_y), (right_x, right_y) = LANDMARKS["left_eye"], LANDMARKS["right_eye"]
    middle = LANDMARKS["nose"][0]
    mouth_y = (LANDMARKS["mouth_left"][1] + LANDMARKS["mouth_right"][1]) / 2
    return (
        _Part(left_x, left_y, 8, 4, -1),
        _Part(right_x, right_y, 8, 4, -1),
        _Part(left_x - 2, left_y - 7.5, 11, 3.5, -0.5),  # brows
        _Part(right_x + 2, right_y - 7.5, 11, 3.5, -0.5),
        _Part(middle, left_y + 4.5, 4, 11, 0.6),  # ridge of the nose
        _Part(middle, LANDMARKS["nose"][1] + 5, 9, 3, -0.7),  # nostrils, and the shadow below them
        _Part(left_x - 4, 70, 9, 8, 0.5),  # cheeks
        _Part(right_x + 4, 70, 9, 8, 0.5),
        _Part(middle, left_y - 19.5, 20, 8, 0.4),  # forehead
        _Part(middle, mouth_y - 1, 13, 3.5, -0.8),
        _Part(middle, mouth_y + 11, 10, 5, 0.4),  # chin
    )


class _Pose(NamedTuple):
    """How a face may lie in an image."""

    right: float = 0  #: pixels of the template
    down: float = 0
    turned: float = 0  #: degrees, clockwise, about the middle of the image
    size: float = 1

    def __str__(self) -> str:
        if self.size != 1:
            return "too large" if self.size > 1 else "too small"
        if self.turned == 180:
            return "upside down"
        if self.turned:
            way = "clockwise" if self.turned < 180 else "anticlockwise"
            return f"turned by about {min(self.turned, 360 - self.turned)} degrees {way}"
        ways = [
            f"{abs(value)} of {TEMPLATE_SIZE} px {names[value > 0]}"
            for value, names in ((self.right, ("left", "right")), (self.down, ("up", "down")))
            if value
        ]
        return f"moved by about {' and '.join(ways)}"


#: Poses that an aligned face fits worse than its own, which is the first.
_NEAR = tuple(
    _Pose(*values) for values in itertools.product((0, -8, 8), (0, -8, 8), (0, -15, 15), (1, 1 / 1.2, 1.2))
)
#: Poses that are named: moved, turned or resized.
_NAMED = (
    *(_Pose(*values) for values in itertools.product((0, -8, 8, -16, 16, -24, 24), repeat=2)),
    *(_Pose(turned=angle) for angle in range(15, 360, 15)),
    *(_Pose(size=size) for size in (1 / 1.4, 1 / 1.2, 1.2, 1.4)),
)


@lru_cache(maxsize=1)
def _drawings() -> Tensor:
    """``(2, 112, 112)``: a face as photos show it, and the mean of rendered people, who differ from it."""
    y, x = torch.meshgrid(*(torch.arange(float(TEMPLATE_SIZE)),) * 2, indexing="ij")
    drawn = torch.full_like(x, 0.5)
    for part in _face():
        away = ((x - part.x) / part.width) ** 2 + ((y - part.y) / part.height) ** 2
        drawn += 0.2 * part.brightness * (-0.5 * away).exp()
    return torch.stack([drawn, render_faces(16, strength=0).mean((0, 1))])


@lru_cache(maxsize=2)
def _posed(poses: tuple[_Pose, ...]) -> tuple[Tensor, Tensor]:
    """How faces look in P poses, and what part of the image counts.

    Returns:
        Contrasts times windows ``(2, P, SMALLEST ** 2)``, of norm 1 in their window; windows of the same
        shape without its first dimension.
    """
    right, down, turned, size = (
        torch.tensor(values, dtype=torch.float32)[:, None, None] for values in zip(*poses, strict=True)
    )
    middle = (TEMPLATE_SIZE - 1) / 2
    places = (torch.arange(SMALLEST) + 0.5) * TEMPLATE_SIZE / SMALLEST - 0.5 - middle
    x, y = places[None, :] - right, places[:, None] - down
    cosine, sine = torch.deg2rad(turned).cos() / size, torch.deg2rad(turned).sin() / size
    # Where each pixel of the posed face is in the aligned one.
    x, y = cosine * x + sine * y, cosine * y - sine * x
    grid = torch.stack([x, y], -1) / middle
    drawn = [
        F.grid_sample(face.expand(len(grid), 1, -1, -1), grid, padding_mode="border", align_corners=True)
        for face in smooth(_drawings(), TEMPLATE_SIZE / SMALLEST / 2)
    ]
    window = (-0.5 * ((x + middle - _CENTRE[0]) ** 2 + (y + middle - _CENTRE[1]) ** 2) / _REACH**2).exp()
    contrasts = torch.stack([_contrast(faces[:, 0]) for faces in drawn])
    norms = (contrasts.square() * window).sum((2, 3), keepdim=True).sqrt()
    return (contrasts * window / norms).flatten(2), window.flatten(1)


def _contrast(grey: Tensor) -> Tensor:
    """How much brighter each pixel is than its surroundings, in units of what is usual around it."""
    difference = smooth(grey, 0.5) - smooth(grey, 1.75)
    return difference / (smooth(difference.square(), 2.5) + 1e-5).sqrt()


def _fits(images: Tensor, poses: tuple[_Pose, ...]) -> Tensor:
    """Correlations ``(2, N, P)`` of images ``(N, SMALLEST, SMALLEST)`` with both drawings in each pose."""
    drawings, windows = _posed(poses)
    contrast = _contrast(images).flatten(1)
    norm = (contrast.square() @ windows.T).sqrt()
    return (contrast @ drawings.mT) / norm.clamp(min=1e-3)


class Merit(NamedTuple):
    """How much an image looks like an aligned face."""

    figure: float  #: of merit, in [-2, 1]
    looks: str  #: what it looks like if that is below the limit; else empty
    rendered: bool  #: whether it is an aligned face that is rendered, and no photo


def merits(images: Tensor) -> list[Merit]:
    """The figure of merit of each image ``(N, C, H, W)``.

    Images that are not square are continued to the sides by their border, as 112 x 96 crops of the same
    alignment need.
    """
    if min(images.shape[-2:]) < SMALLEST:
        return [Merit(0.0, f"it has only {images.shape[-1]} x {images.shape[-2]} pixels", False)] * len(
            images
        )
    grey = images.detach().float().cpu().mean(1, keepdim=True)
    height, width = grey.shape[-2:]
    side = max(height, width)
    left, top = (side - width) // 2, (side - height) // 2
    grey = F.pad(grey, (left, side - width - left, top, side - height - top), mode="replicate")
    small = F.interpolate(grey, (SMALLEST, SMALLEST), mode="bilinear", align_corners=False, antialias=True)[
        :, 0
    ]
    both = _fits(small, _NEAR)
    fits = both.amax(0)
    as_it_is, best = fits[:, 0], fits.amax(1)
    figures = as_it_is - _PENALTY * (best - as_it_is)
    photo, rendered = both[:, :, 0]
    drawn = (figures >= LIMIT) & (rendered >= photo + _RENDERED)
    return [
        Merit(figure, "" if figure >= LIMIT else _looks(one), is_drawn)
        for figure, one, is_drawn in zip(figures.tolist(), small[:, None], drawn.tolist(), strict=True)
    ]


def _looks(image: Tensor) -> str:
    """What an image looks like that is no aligned face."""
    fits = _fits(image, _NAMED).amax(0)[0]
    best = int(fits.argmax())
    if fits[best] < max(_CLEAR, float(fits[0]) + _GAIN):
        return "it shows no clear face"
    return f"it looks {_NAMED[best]}"
