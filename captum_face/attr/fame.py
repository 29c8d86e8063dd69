"""FAME: where an image changes when it is moved towards its partner, or away."""

from __future__ import annotations

import torch
from torch import Tensor

from captum_face._validation import require_choice, require_positive, require_positive_int
from captum_face.attr.base import PairAttribution, on_sides
from captum_face.attr.registry import method
from captum_face.engines.sides import Side, Sides, gradients_enabled, image_gradient
from captum_face.maps.signed import smooth

__all__ = ["FAME"]

# ITU-R BT.601, as most image libraries turn colours to grey.
_GREY = (0.299, 0.587, 0.114)
_DIRECTIONS = {"away": (-1,), "towards": (1,), "both": (-1, 1)}


@method(
    "fame",
    display="FAME",
    family="gradient",
    source="arXiv 2605.12017",
    passes="4 n_steps backward, 4 n_steps + 2 forward",
    needs="gradients",
)
class FAME(PairAttribution):
    r"""FAME (Zhang and Guenther, arXiv 2605.12017).

    The image takes many small steps along the gradient g of the score, each by at most
    :math:`\eta` a pixel:

    .. math:: x \leftarrow x \pm \eta \, g / \max |g|, \qquad
        M = \left| \operatorname{grey}(x') - \operatorname{grey}(x) \right|

    Where the image changes on its way *away* from the partner lies what made them alike, and where it
    changes *towards* the partner lies what told them apart: :math:`S = M_\text{away} - M_\text{towards}`.

    The steps, :math:`\eta = 1/255` and the change in grey are the paper's. That both directions make one
    signed map, that pixels stay in [0, 1] and the width of the blur are ours.
    """

    @on_sides
    def attribute(
        self,
        sides: Sides,
        *,
        n_steps: int = 100,
        step_size: float = 1 / 255,
        direction: str = "both",
        sigma: float | None = None,
    ) -> tuple[Tensor, ...]:
        """Signed maps of both images, as :class:`~captum_face.PairAttribution` says.

        Args:
            n_steps: Gradient steps (the paper takes 100 to 500).
            step_size: Most that one step changes a pixel, in brightness.
            direction: ``"both"``, or ``"away"`` or ``"towards"`` alone; the latter's map is negative.
            sigma: Standard deviation of the blur in pixels; None for 3/112 of the shorter side.

        Returns:
            ``(attr_a, attr_b)`` in brightness, one value per pixel. Positive where moving away from the
            partner changes more than moving towards it. Deterministic.

        Cost: for each image and partner ``n_steps`` forward and backward passes for each direction, and a
        forward pass for the partner.
        """
        require_positive_int(n_steps, "n_steps")
        signs = _DIRECTIONS[require_choice(direction, _DIRECTIONS, "direction")]
        require_positive(step_size, "step_size, in brightness,")
        if sigma is not None:
            require_positive(sigma, "sigma, in pixels,", or_zero=True)
        blur = 3 / 112 * min(sides.size) if sigma is None else sigma

        def one(side: Side) -> Tensor:
            maps = []
            for single in side.each():
                total = torch.zeros_like(side.image[:, 0])
                for sign in signs:
                    moved = side.image
                    for _ in range(n_steps):
                        moved = _step(single, moved, sign * step_size)
                        single.done()
                    total -= sign * smooth((_grey(moved) - _grey(side.image)).abs(), blur)
                maps.append(total)
            return torch.cat(maps)

        return sides.explain(one, n_steps * len(signs))


def _step(side: Side, image: Tensor, length: float) -> Tensor:
    """The image after one step uphill, or downhill for a negative length."""
    with gradients_enabled():
        leaf = image.detach().requires_grad_()
        gradient = image_gradient(side.contributions(side.pair.embed(leaf)).sum(-1), leaf)
    largest = gradient.abs().max()
    # Images that leave [0, 1] themselves (noise) keep their own range.
    low, high = image.min().clamp(max=0), image.max().clamp(min=1)
    return (image + length * gradient / largest.where(largest > 0, 1)).clamp(low, high)


def _grey(image: Tensor) -> Tensor:
    """``(N, C, H, W)`` to ``(N, H, W)``."""
    if image.shape[1] != 3:
        return image.mean(1)
    return torch.einsum("nchw,c->nhw", image, image.new_tensor(_GREY))
