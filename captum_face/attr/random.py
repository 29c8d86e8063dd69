"""The null baseline of noise: a map that looks at nothing."""

from __future__ import annotations

from collections.abc import Callable

import torch
from captum.log import log_usage
from torch import Tensor

from captum_face._validation import require_generator
from captum_face.attr._base import PairAttribution, Side

__all__ = ["Random"]


class Random(PairAttribution):
    """Noise in place of an explanation: every pixel's value is drawn on its own.

    Args:
        forward_func: As for every method; it is never called.
    """

    @log_usage()
    def attribute(
        self,
        inputs: tuple[Tensor, Tensor],
        *,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        show_progress: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Random maps of both images; what the inputs and the result are stands at
        :class:`~captum_face.PairAttribution`.

        Args:
            inputs: ``(image_a, image_b)``; only their shapes matter.
            seed: Makes the maps repeatable; without it and ``generator``, torch's global state is used.
            generator: The source of randomness itself, instead of ``seed``.
            show_progress: Show a progress bar over the images.

        Returns:
            ``(attr_a, attr_b)``, uniform in [-1, 1). One map is drawn for each side and shown by all
            pairs of the batch, so that a batch gives what its items give with the same seed: explain
            pairs one by one with seeds of their own where maps shall differ.

        Cost: no pass through the model.

        Raises:
            ValueError: bad images, or both ``seed`` and ``generator``.
        """
        generator = require_generator(seed, generator)
        with self._prepared(inputs) as images:
            device = generator.device if generator is not None else None
            noise = torch.rand(2, *images[0].shape[-2:], generator=generator, device=device) * 2 - 1
            return self._explain_sides(
                images,
                lambda side, progress: _drawn(noise[int(side.swapped)], side, progress),
                1,
                show_progress,
            )


def _drawn(picture: Tensor, side: Side, progress: Callable[[int], object]) -> Tensor:
    progress(1)
    return picture.expand(len(side.partners), -1, -1)
