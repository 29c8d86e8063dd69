"""What the methods that ask from strangers and from the partner share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from captum_face._validation import require_threshold
from captum_face.attr._base import PairAttribution
from captum_face.engines.morphs import Ends, drawn_strangers, require_strangers
from captum_face.pair.passes import BatchSize

__all__ = ["MorphingAttribution", "halves", "require_position"]


class MorphingAttribution(PairAttribution):
    """Base of the methods that ask two questions, with other faces in place of an image, and join the maps.

    Args:
        forward_func: As for every method.
        strangers: Aligned faces of other people ``(M, C, H, W)``, or a folder of them; None for rendered
            ones.
    """

    def __init__(
        self, forward_func: Callable[..., Tensor], strangers: Tensor | str | Path | None = None
    ) -> None:
        super().__init__(forward_func)
        self.strangers = strangers

    def _theta(self, threshold: float | None) -> float:
        """The threshold that is given, or the pair's own; a callable of someone else's has 0."""
        if threshold is not None:
            return require_threshold(threshold)
        return float(getattr(self.forward_func, "threshold", 0.0))

    def _ends(
        self,
        images: tuple[Tensor, Tensor],
        strangers: Tensor | str | Path | None,
        n: int,
        threshold: float,
        generator: torch.Generator | None,
        size: BatchSize,
    ) -> tuple[Tensor, Ends]:
        """Strangers for ``n`` turns, and what all ends score, ``size`` images in one pass."""
        given = self.strangers if strangers is None else strangers
        drawn = drawn_strangers(require_strangers(given, images), n, generator)
        rendered = given is None
        return drawn, Ends.of(
            self.forward_func, images, drawn, threshold, n_turns=n, rendered=rendered, size=size
        )


def require_position(position: float | None) -> float | None:
    """Returns ``position`` if it is None or in [0, 1].

    Raises:
        ValueError: it is neither.
    """
    if position is not None and not 0 <= position <= 1:
        raise ValueError(f"expected position in [0, 1], from strangers to a perfect match, got {position!r}")
    return position


def halves(sides: tuple[Tensor, Tensor]) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Both questions' maps of both images, from maps ``(N, 2 C, H, W)`` that hold one after the other."""
    (above_a, below_a), (above_b, below_b) = (
        maps.chunk(2, dim=1) if len(maps) else (maps, maps)  # of an image that is not explained
        for maps in sides
    )
    return (above_a, above_b), (below_a, below_b)
