"""The null baseline of noise: a map that looks at nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from captum_face._validation import require_generator
from captum_face.attr.base import PairAttribution, on_sides
from captum_face.attr.registry import method
from captum_face.engines.sides import Side, Sides

__all__ = ["Random"]


@method("random", family="null baseline", source="none", passes="none", null=True)
class Random(PairAttribution):
    """Noise in place of an explanation: every pixel's value is drawn on its own."""

    @on_sides
    def attribute(
        self, sides: Sides, *, seed: int | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, ...]:
        """Random maps of both images, as :class:`~captum_face.PairAttribution` says.

        Args:
            inputs: ``(image_a, image_b)``; only their shapes matter.

        Returns:
            ``(attr_a, attr_b)``, uniform in [-1, 1). One map is drawn for each side and shown by all
            pairs of the batch, so that a batch gives what its items give with the same seed: explain
            pairs one by one with seeds of their own where maps shall differ.

        Cost: no pass through the model.

        Raises:
            ValueError: bad images, or both ``seed`` and ``generator``.
        """
        generator = require_generator(seed, generator)
        device = generator.device if generator is not None else None
        noise = torch.rand(2, *sides.size, generator=generator, device=device, dtype=torch.float32) * 2 - 1

        def one(side: Side) -> Tensor:
            side.done()
            return noise[int(side.swapped)].expand(len(side.partners), -1, -1)

        return sides.explain(one)
