"""The null baseline of the image's centre: a map that looks at nothing."""

from __future__ import annotations

from collections.abc import Callable

import torch
from captum.log import log_usage
from torch import Tensor

from captum_face._validation import require_positive
from captum_face.attr._base import PairAttribution, Side

__all__ = ["Center"]


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
