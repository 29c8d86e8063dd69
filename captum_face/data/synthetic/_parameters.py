"""What a synthetic face is made of: the parameters of its identity and of the one photo of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from captum_face._validation import require_choice

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "PARTS",
    "Identities",
    "Nuisance",
    "difference",
    "sample_identities",
    "sample_nuisance",
]

Ranges = dict[str, tuple[float, float]]

# Lengths are pixels and rows of the 112x112 crop; "tone" and "colour" run along a palette, and the
# rest are amounts. Every vector is drawn uniformly from these ranges.
IDENTITY: dict[str, Ranges] = {
    "skin": {"tone": (0, 1), "warmth": (-1, 1), "gloss": (0.2, 1), "texture": (0, 1)},
    "jaw": {
        "cheek_width": (35, 40.5),
        "jaw_width": (0.58, 0.90),
        "chin_row": (105, 110.5),
        "square": (1.9, 3.0),
        "cheekbone": (0.4, 3.6),
        "chin_ball": (0, 3.2),
        "cleft": (-1.2, 1.2),
    },
    "ears": {"height": (8, 12.5), "spread": (2.6, 6.6), "row": (56, 63), "lobe": (0, 3.5)},
    "marks": {
        "mole_x": (-27, 27),
        "mole_row": (62, 86),
        "mole_size": (1.0, 1.9),
        "spot_x": (-17, 17),
        "spot_row": (-1, 1),
        "spot_size": (0.7, 1.4),
        "freckles": (-1.5, 0.9),
        "blush": (0, 1),
        "phase": (0, 6.283),
    },
    "nose": {
        "tip_row": (-1.8, 1.8),
        "width": (6.2, 10.2),
        "bridge_width": (4.2, 8),
        "bridge_height": (1.5, 5.5),
        "hump": (-1.0, 2.2),
        "tip_size": (1.0, 4.0),
        "nostril": (0.8, 1.9),
    },
    "mouth": {
        "width": (-2.0, 2.0),
        "upper": (1.7, 4.6),
        "lower": (2.8, 6.2),
        "bow": (0.0, 1.4),
        "curve": (0.0, 2.6),
        "colour": (0, 1),
        "strength": (0.45, 0.95),
    },
    "eyes": {
        "spacing": (-0.8, 0.8),
        "width": (7.0, 9.6),
        "upper": (2.9, 4.9),
        "lower": (1.8, 3.2),
        "tilt": (-0.13, 0.20),
        "colour": (0, 1),
        "iris": (3.5, 4.6),
        "crease": (1.6, 4.2),
        "lash": (0.5, 1.5),
        "shadow": (0, 1),
        "socket": (1.5, 4.5),
    },
    "beard": {
        "moustache": (0.2, 1.1),
        "chin": (-0.3, 1.2),
        "cheeks": (-0.6, 1.1),
        "density": (0.5, 1.0),
        "colour": (0, 1),
    },
    "brows": {
        "row": (38.5, 43.0),
        "thickness": (0.9, 2.7),
        "arch": (0.3, 4.2),
        "slope": (-2.0, 1.8),
        "inner": (5.5, 10.5),
        "outer": (25.5, 30.5),
        "colour": (0, 1),
        "density": (0.5, 0.95),
    },
    "hair": {
        "colour": (0, 1),
        "streaks": (0.1, 0.5),
        "line": (13, 31),
        "drop": (4, 24),
        "power": (1.4, 3.6),
        "parting": (-20, 20),
        "volume": (2, 10),
        "height": (1, 9),
        "length": (42, 150),
        "wave": (-0.4, 1),
        "jag": (0, 1.0),
        "phase": (0, 6.283),
    },
}

PARTS: tuple[str, ...] = tuple(IDENTITY)

# (value at rest, largest deviation at strength 1)
NUISANCE: dict[str, Ranges] = {
    "light": {
        "x": (0, 0.75),
        "y": (-0.35, 0.4),
        "ambient": (0.5, 0.14),
        "exposure": (1.0, 0.22),
        "warmth": (0, 0.09),
        "tint": (0, 0.04),
        "contrast": (1.0, 0.14),
    },
    "pose": {
        "rotation": (0, 0.07),
        "shift_x": (0, 1.8),
        "shift_y": (0, 1.8),
        "scale": (1, 0.04),
        "yaw": (0, 3.2),
        "pitch": (0, 1.8),
    },
    "expression": {
        "smile": (0.45, 0.6),
        "open": (-0.5, 1.2),
        "lids": (1.0, 0.16),
        "brows": (0, 1.3),
        "gaze_x": (0, 1.3),
        "gaze_y": (0, 0.4),
    },
    "background": {
        "level": (0.68, 0.28),
        "warm": (-0.02, 0.07),
        "green": (0, 0.04),
        "gradient": (0.25, 0.4),
        "angle": (0.8, 3.14),
    },
    "noise": {"amount": (0.0, 0.02), "seed": (0, 0)},
}


Index = int | slice | Tensor | list[int]


@dataclass(frozen=True)
class _Rows:
    """A table of vectors per group, with one row a face."""

    vectors: dict[str, Tensor]

    def __len__(self) -> int:
        return next(iter(self.vectors.values())).shape[0]

    def __getitem__(self, index: Index) -> Self:
        """Returns some of the rows; an int gives one row, still with its first dimension."""
        if isinstance(index, int):
            row = range(len(self))[index]  # raises IndexError, and counts from the end if negative
            index = slice(row, row + 1)
        return type(self)({name: vector[index] for name, vector in self.vectors.items()})

    def repeat(self, n: int) -> Self:
        """Returns every row ``n`` times, one after the other."""
        return type(self)({k: v.repeat_interleave(n, dim=0) for k, v in self.vectors.items()})


@dataclass(frozen=True)
class Identities(_Rows):
    """Who is in the pictures: one vector a part, and nothing about the photo.

    Args:
        vectors: For each of :data:`PARTS` a float tensor ``(N, parameters of that part)``.
    """

    def swap(self, other: Identities, parts: Iterable[str]) -> Identities:
        """Returns these identities with ``parts`` taken from ``other`` (as many, or one for all).

        Raises:
            ValueError: a part is unknown.
        """
        names = [require_choice(part, PARTS, "face part") for part in parts]
        own = self.vectors
        return Identities(own | {name: other.vectors[name].expand_as(own[name]) for name in names})


@dataclass(frozen=True)
class Nuisance(_Rows):
    """How the pictures were taken: light, pose, expression, background and sensor noise.

    Args:
        vectors: For each group a float tensor ``(N, parameters of that group)``.
    """

    def without_noise(self) -> Nuisance:
        """Returns the same photos as a noiseless sensor would take them."""
        return Nuisance(self.vectors | {"noise": torch.zeros_like(self.vectors["noise"])})


def _generator(seed: int, stream: int) -> torch.Generator:
    # People and photos of one seed must not share a stream: light would give the person away.
    return torch.Generator().manual_seed(2 * seed + stream)


def sample_identities(n: int, seed: int) -> Identities:
    """Draws ``n`` people.

    Parts are drawn independently, but for a few habits that keep the faces pleasant: deep skin tones
    go with dark hair, brows and beard have about the colour of the hair, and the four in ten who have
    a beard wear shorter hair and no lipstick. Each part keeps its own vector all the same, so that
    any part can be exchanged alone.

    Args:
        n: Number of identities.
        seed: Seed of a generator of its own; the same seed gives the same people.
    """
    generator = _generator(seed, stream=0)
    vectors = {}
    for part, ranges in IDENTITY.items():
        low, high = torch.tensor(list(ranges.values()), dtype=torch.float32).unbind(1)
        vectors[part] = low + (high - low) * torch.rand(
            n, len(ranges), generator=generator, dtype=torch.float32
        )
    column = {
        (part, name): vectors[part][:, i]  # a view: what is written to it arrives in the vector
        for part, ranges in IDENTITY.items()
        for i, name in enumerate(ranges)
    }
    hair, brow = column["hair", "colour"], column["brows", "colour"]
    hair *= 1 - 0.65 * (column["skin", "tone"] - 0.3).clamp(min=0) / 0.7
    brow.copy_((0.75 * hair + 0.3 * (brow - 0.4)).clamp(0, 1))
    bearded = torch.rand(n, generator=generator, dtype=torch.float32) < 0.4
    column["beard", "colour"].copy_(0.9 * hair + 0.1 * column["beard", "colour"])
    vectors["beard"][~bearded] = 0
    length, lips = column["hair", "length"], column["mouth", "strength"]
    length[bearded] = 42 + 0.35 * (length[bearded] - 42)
    lips[bearded] = 0.6 * lips[bearded]
    column["mouth", "colour"][bearded] *= 0.4
    column["eyes", "lash"][bearded] *= 0.6
    return Identities(vectors)


def sample_nuisance(n: int, seed: int, strength: float = 1.0) -> Nuisance:
    """Draws the circumstances of ``n`` photos.

    Args:
        n: Number of photos.
        seed: Seed of a generator of its own.
        strength: Scales every deviation from the photo at rest. ``0`` is the photo at rest (frontal
            light and pose, a faint smile, plain background, no noise); ``1`` is as varied as
            snapshots are.
    """
    generator = _generator(seed, stream=1)
    vectors = {}
    for group, ranges in NUISANCE.items():
        rest, spread = torch.tensor(list(ranges.values()), dtype=torch.float32).unbind(1)
        draw = 2 * torch.rand(n, len(ranges), generator=generator, dtype=torch.float32) - 1
        vectors[group] = rest + strength * spread * draw
    amount, seeds = vectors["noise"].unbind(1)
    amount.abs_()
    # Whole numbers below 2**24 are exact in float32. Every photo carries its own noise seed, so that
    # a face does not depend on the batch it is rendered in.
    seeds.copy_(torch.randint(2**24, (n,), generator=generator))
    return Nuisance(vectors)


def difference(person: Identities, others: Identities, parts: Iterable[str]) -> Tensor:
    """How much each of ``others`` (M) differs from ``person`` (1) in ``parts``: ``(M,)`` in [0, 1].

    The mean over a part's parameters of the distance relative to their range, then the least of the
    parts: all of them shall differ.
    """
    apart = [torch.ones(len(others), dtype=torch.float32)]
    for part in parts:
        low, high = torch.tensor(list(IDENTITY[part].values()), dtype=torch.float32).unbind(1)
        distance = (others.vectors[part] - person.vectors[part]).abs() / (high - low)
        apart.append(distance.mean(dim=1))
    return torch.stack(apart).amin(dim=0)
