"""The null baseline of the image's centre: a map that looks at nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from captum_face._validation import require_positive
from captum_face.attr.base import PairAttribution, on_sides
from captum_face.attr.registry import method
from captum_face.engines.sides import Side, Sides

__all__ = ["Center"]


@method(
    "center", display="Centre", family="null baseline", source="none", passes="none", null=True, argues="for"
)
class Center(PairAttribution):
    """A Gaussian around the centre in place of an explanation: where an aligned face is anyway."""

    @on_sides
    def attribute(self, sides: Sides, *, sigma: float = 0.25) -> tuple[Tensor, ...]:
        """The same Gaussian for both images, as :class:`~captum_face.PairAttribution` says.

        Args:
            inputs: ``(image_a, image_b)``; only their shapes matter.
            sigma: Standard deviation as a fraction of each side of the image.

        Returns:
            ``(attr_a, attr_b)`` in (0, 1], all in favour of a match. Deterministic.

        Cost: no pass through the model.

        Raises:
            ValueError: bad images, or a sigma that is not above 0.
        """
        require_positive(sigma, "sigma, as a fraction of the image's side,")
        profiles = [
            (-0.5 * (torch.linspace(-0.5, 0.5, length, dtype=torch.float64) / sigma).square()).exp()
            for length in sides.size
        ]
        centre = torch.outer(*profiles)

        def one(side: Side) -> Tensor:
            side.done()
            return centre.expand(len(side.partners), -1, -1)

        return sides.explain(one)
