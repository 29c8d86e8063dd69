"""Morphs between aligned faces: points on the way from one face to another.

A morph stays a face on all of its way if both ends are faces of one alignment.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from captum_face._validation import require_positive, require_positive_int
from captum_face.maps.signed import smooth

__all__ = ["Morphs", "morphs"]

#: Random fields that give regions their time, each for a morph and its reverse.
_N_FIELDS = 2


class Morphs(NamedTuple):
    """Points on ways from other faces to an image; made by :func:`morphs`."""

    shares: Tensor  #: ``(n, H, W)`` in [0, 1]: how much of the image each point shows
    weights: Tensor  #: ``(n, H, W)``: how much of a pixel's change a point stands for; they add up to 1


def morphs(
    n: int,
    size: tuple[int, int],
    *,
    softness: float | None = 1.0,
    scale: float = 6 / 112,
    generator: torch.Generator | None = None,
) -> Morphs:
    """Points on morphs in which every region has its own time.

    A smooth random field gives each pixel a time, uniform over [0, 1], around which it changes evenly from
    one face to the other. So a point shows some regions of one face and some of the other, with soft borders.
    The clock runs from the first pixel's beginning to the last one's end. There are four such morphs, the
    second and the fourth with the times of the one before reversed, and the points are spread over them
    evenly, each in the middle of its stretch of the clock. A pixel's weight is what changes of it in that
    stretch, so that all of its change is accounted for, whatever the fields are.

    Args:
        n: How many points.
        size: ``(H, W)`` in pixels.
        softness: How long a pixel takes, relative to the time between the first one's beginning and the last
            one's; None for all pixels at once, the straight line of integrated gradients.
        scale: Standard deviation of the Gaussian that makes the field smooth, as a share of the shorter side.
        generator: Source of randomness; None for torch's global one.

    Raises:
        ValueError: a count below 1, a softness or scale that is not above 0.

    Example::

        >>> points = morphs(8, (20, 20), generator=torch.Generator().manual_seed(0))
        >>> points.shares.shape, torch.allclose(points.weights.sum(0), torch.ones(20, 20))
        (torch.Size([8, 20, 20]), True)
    """
    require_positive_int(n, "n_points")
    if softness is None:
        shares = ((torch.arange(n, dtype=torch.float32) + 0.5) / n)[:, None, None].expand(n, *size)
        return Morphs(shares, torch.full_like(shares, 1 / n))
    require_positive(softness, "softness")
    require_positive(scale, "scale")
    device = generator.device if generator is not None else None
    noise = torch.randn(_N_FIELDS, *size, generator=generator, device=device, dtype=torch.float32).cpu()
    fields = smooth(noise, scale * min(size)).flatten(1)
    # Ranks: whatever the field's distribution is, its times are uniform.
    ranks = fields.argsort(1).argsort(1).float().reshape(-1, *size) / max(1, fields.shape[1] - 1)
    times = torch.stack([ranks, 1 - ranks], 1).flatten(0, 1)[:n]
    shares_of, weights_of = [], []
    for way, of_pixels in enumerate(times):
        steps = n // len(times) + (way < n % len(times))
        edges = torch.linspace(0, 1, steps + 1, dtype=torch.float32)

        def share(clock: Tensor, of_pixels: Tensor = of_pixels) -> Tensor:
            return ((clock[:, None, None] * (1 + softness) - of_pixels) / softness).clamp(0, 1)

        shares_of.append(share((edges[1:] + edges[:-1]) / 2))
        weights_of.append(share(edges).diff(dim=0) / len(times))
    return Morphs(torch.cat(shares_of), torch.cat(weights_of))
