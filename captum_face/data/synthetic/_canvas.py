"""Tools to draw with: anti-aliased shapes, colours, a canvas with heights, the pose of a head."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor

from captum_face.data.synthetic._parameters import PARTS

__all__ = [
    "CENTRE_X",
    "CENTRE_Y",
    "SIZE",
    "Canvas",
    "bump",
    "columns",
    "cover",
    "ellipse",
    "from_image",
    "hill",
    "palette",
    "rgb",
    "smooth",
    "soft",
    "to_image",
]

SIZE = 112
CENTRE_X, CENTRE_Y = 55.95, 70.0


def rgb(red: float, green: float, blue: float) -> Tensor:
    """One colour ``(3, 1, 1)``."""
    return torch.tensor([red, green, blue], dtype=torch.float32)[:, None, None]


def palette(colours: list[tuple[float, float, float]], position: Tensor) -> Tensor:
    """Colours ``(N, 3, 1, 1)`` at ``position`` (N, 1, 1) in [0, 1] along a list of them."""
    table = torch.tensor(colours, dtype=torch.float32)
    place = position.reshape(-1).clamp(0, 1) * (len(colours) - 1)
    low = place.floor().clamp(max=len(colours) - 2).long()
    return torch.lerp(table[low], table[low + 1], (place - low)[:, None])[:, :, None, None]


def smooth(x: Tensor) -> Tensor:
    """A smooth step from 0 at ``x = 0`` to 1 at ``x = 1``."""
    x = x.clamp(0, 1)
    return x * x * (3 - 2 * x)


def cover(distance: Tensor) -> Tensor:
    """Share of a pixel that a shape covers, from its signed distance (px, inside negative)."""
    return (0.5 - distance).clamp(0, 1)


def soft(distance: Tensor, width: float) -> Tensor:
    """As :func:`cover`, with a smooth edge ``width`` px wide."""
    return smooth(0.5 - distance / width)


def bump(dx: Tensor, dy: Tensor) -> Tensor:
    """A round hill of height and radius 1. It is exactly 0 outside, as a Gaussian is not."""
    return (1 - dx * dx - dy * dy).clamp(min=0).square()


def hill(x: Tensor) -> Tensor:
    """:func:`bump` along one axis."""
    return (1 - x * x).clamp(min=0).square()


def ellipse(dx: Tensor, dy: Tensor, rx: Tensor, ry: Tensor) -> Tensor:
    """Approximate signed distance (px) to an ellipse with half axes ``rx``, ``ry``."""
    radius = ((dx / rx).square() + (dy / ry).square() + 1e-8).sqrt()
    return (radius - 1) * torch.minimum(rx, ry)


def columns(table: dict[str, tuple[float, float]], vector: Tensor) -> SimpleNamespace:
    """The parameters of one part by name, each ``(N, 1, 1)``."""
    return SimpleNamespace(**dict(zip(table, vector.T[:, :, None, None], strict=True)))


def _depth(x: Tensor, y: Tensor) -> Tensor:
    """How far the head's surface lies before its axis: about 1 on the face, 1.7 at the nose."""
    dome = 1 - (x / 46).square() - ((y - 66) / 66).square()
    return dome.clamp(min=-0.3) + 0.7 * bump(x / 16, (y - 68) / 22)


def from_image(pose: SimpleNamespace, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Face coordinates (x from the middle line, row at rest) of picture coordinates, in px."""
    cos, sin = pose.rotation.cos(), pose.rotation.sin()
    dx, dy = x - CENTRE_X - pose.shift_x, y - CENTRE_Y - pose.shift_y
    u = (cos * dx + sin * dy) / pose.scale
    v = (cos * dy - sin * dx) / pose.scale + CENTRE_Y
    depth = _depth(u, v)
    return u - pose.yaw * depth, v - pose.pitch * depth


def to_image(pose: SimpleNamespace, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Picture coordinates of face coordinates: the inverse of :func:`from_image`."""
    x, y = u, v
    for _ in range(12):  # the parallax is gentle enough for a fixed point, exact to 0.01 px
        depth = _depth(x, y)
        x, y = u + pose.yaw * depth, v + pose.pitch * depth
    cos, sin = pose.rotation.cos(), pose.rotation.sin()
    dx, dy = x * pose.scale, (y - CENTRE_Y) * pose.scale
    return (
        CENTRE_X + pose.shift_x + cos * dx - sin * dy,
        CENTRE_Y + pose.shift_y + sin * dx + cos * dy,
    )


class Canvas:
    """A head under way: colour, height, gloss, and the part on top of each pixel.

    Args:
        u, v: Face coordinates of all pixels ``(N, H, W)``, as of :func:`from_image`.
    """

    def __init__(self, u: Tensor, v: Tensor) -> None:
        self.u, self.v, self.a = u, v, u.abs()
        self.colour = torch.zeros(u.shape[0], 3, *u.shape[1:], dtype=u.dtype)
        self.height = torch.zeros_like(u)
        self.gloss = torch.zeros_like(u)
        self.label = torch.full(u.shape, -1, dtype=torch.int8)

    def window(self, top: float, bottom: float, reach: float) -> Canvas:
        """The part of the canvas that holds these face rows, up to ``reach`` from the middle line.

        It shares its memory with the whole. Features are drawn on windows to save time; each must
        vanish outside of its window, whose exact extent depends on the poses.
        """
        hit = (self.v > top) & (self.v < bottom) & (self.a < reach)
        spans = []
        for axes in ((0, 2), (0, 1)):
            places = hit.any(dim=axes[1]).any(dim=axes[0]).nonzero().flatten()
            spans.append(slice(int(places[0]), int(places[-1]) + 1) if len(places) else slice(0, 1))
        view = Canvas.__new__(Canvas)
        for name, layer in vars(self).items():
            setattr(view, name, layer[..., spans[0], spans[1]])
        return view

    def paint(self, alpha: Tensor, colour: Tensor) -> None:
        """Lays a colour over the canvas."""
        self.colour.lerp_(colour.expand_as(self.colour), alpha[:, None])

    def darken(self, amount: Tensor) -> None:
        """Takes light away. Blood shows through thin shadows, so skin keeps more of its red."""
        self.colour.mul_(1 - rgb(0.85, 1.05, 1.1) * amount[:, None])

    def rise(self, amount: Tensor) -> None:
        """Raises the surface by ``amount`` px."""
        self.height.add_(amount)

    def mark(self, inside: Tensor, part: str) -> None:
        """Names the part on top."""
        self.label.masked_fill_(inside, PARTS.index(part))
