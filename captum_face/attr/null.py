"""Null baselines: maps that look at nothing. A method that does not beat them has explained nothing."""

from __future__ import annotations

from collections.abc import Callable

import torch
from captum.log import log_usage
from torch import Tensor

from captum_face._validation import require_generator, require_positive
from captum_face.attr._base import PairAttribution, Side

__all__ = ["Center", "Random"]


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


class Center(PairAttribution):
    """A Gaussian blob in the middle in place of an explanation: where an aligned face is anyway.

    Args:
        forward_func: As for every method; it is never called.
    """

    @log_usage()
    def attribute(
        self,
        inputs: tuple[Tensor, Tensor],
        *,
        sigma: float = 0.25,
        show_progress: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """The same blob for both images; what the inputs and the result are stands at
        :class:`~captum_face.PairAttribution`.

        Args:
            inputs: ``(image_a, image_b)``; only their shapes matter.
            sigma: Standard deviation of the blob as a fraction of each side of the image.
            show_progress: Show a progress bar over the images.

        Returns:
            ``(attr_a, attr_b)`` in (0, 1], all in favour of a match. Deterministic.

        Cost: no pass through the model.

        Raises:
            ValueError: bad images, or a sigma that is not above 0.
        """
        require_positive(sigma, "sigma, as a fraction of the image's side,")
        with self._prepared(inputs) as images:
            profiles = [
                (-0.5 * (torch.linspace(-0.5, 0.5, side, dtype=torch.float64) / sigma).square()).exp()
                for side in images[0].shape[-2:]
            ]
            blob = torch.outer(*profiles)
            return self._explain_sides(
                images, lambda side, progress: _drawn(blob, side, progress), 1, show_progress
            )


def _drawn(picture: Tensor, side: Side, progress: Callable[[int], object]) -> Tensor:
    progress(1)
    return picture.expand(len(side.partners), -1, -1)
