"""FAME: where an image changes when it is moved towards its partner, or away."""

from __future__ import annotations

from collections.abc import Callable

import torch
from captum.log import log_usage
from torch import Tensor

from captum_face._validation import require_choice, require_positive, require_positive_int
from captum_face.attr._base import PairAttribution, Side, gradients_enabled, image_gradient
from captum_face.maps.signed import smooth
from captum_face.pair.similarity import PairSimilarity

__all__ = ["FAME"]

# ITU-R BT.601, as most image libraries turn colours to grey.
_GREY = (0.299, 0.587, 0.114)
_DIRECTIONS = {"away": (-1,), "towards": (1,), "both": (-1, 1)}


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

    Args:
        forward_func: The :class:`~captum_face.PairSimilarity` to explain; its model must be
            differentiable.
    """

    @log_usage()
    def attribute(
        self,
        inputs: tuple[Tensor, Tensor],
        *,
        n_steps: int = 100,
        step_size: float = 1 / 255,
        direction: str = "both",
        sigma: float | None = None,
        show_progress: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Signed maps of both images; what the inputs and the result are stands at
        :class:`~captum_face.PairAttribution`.

        Args:
            inputs: ``(image_a, image_b)``.
            n_steps: Gradient steps (the paper takes 100 to 500).
            step_size: Most that one step changes a pixel, in brightness.
            direction: ``"both"``, or ``"away"`` or ``"towards"`` alone; the latter's map is negative.
            sigma: Standard deviation of the blur in pixels; None for 3/112 of the shorter side.
            show_progress: Show a progress bar over the steps.

        Returns:
            ``(attr_a, attr_b)`` in brightness, one value per pixel. Positive where moving away from the
            partner changes more than moving towards it. Deterministic.

        Cost: for each image and partner ``n_steps`` forward and backward passes for each direction, and a
        forward pass for the partner.

        Raises:
            TypeError: ``forward_func`` is not a :class:`~captum_face.PairSimilarity`, or its model cannot
                be differentiated.
            ValueError: bad images or options.
        """
        pair = self._require_pair_similarity()
        require_positive_int(n_steps, "n_steps")
        signs = _DIRECTIONS[require_choice(direction, _DIRECTIONS, "direction")]
        require_positive(step_size, "step_size, in brightness,")
        if sigma is not None:
            require_positive(sigma, "sigma, in pixels,", or_zero=True)
        with self._prepared(inputs) as images:
            blur = 3 / 112 * min(images[0].shape[-2:]) if sigma is None else sigma

            def explain(side: Side, progress: Callable[[int], object]) -> Tensor:
                maps = []
                with gradients_enabled():
                    image = side.image.clone()
                    with torch.no_grad():
                        partners = pair.embed_in_passes(side.partners.clone())
                    for index, partner in enumerate(partners[:, None]):
                        total = torch.zeros_like(image[:, 0])
                        for sign in signs:
                            moved = image
                            for _ in range(n_steps):
                                moved = _step(pair, moved, partner, side.swapped, sign * step_size)
                                if index == 0:
                                    progress(1)
                            total -= sign * smooth((_grey(moved) - _grey(image)).abs(), blur)
                        maps.append(total)
                return torch.cat(maps)

            return self._explain_sides(images, explain, n_steps * len(signs), show_progress)


def _step(pair: PairSimilarity, image: Tensor, partner: Tensor, swapped: bool, length: float) -> Tensor:
    """The image after one step uphill, or downhill for a negative length."""
    leaf = image.detach().requires_grad_()
    own = pair.embed(leaf)
    gradient = image_gradient(pair.score(*((partner, own) if swapped else (own, partner))), leaf)
    largest = gradient.abs().max()
    # Images that leave [0, 1] themselves (noise) keep their own range.
    low, high = image.min().clamp(max=0), image.max().clamp(min=1)
    return (image + length * gradient / largest.where(largest > 0, 1)).clamp(low, high)


def _grey(image: Tensor) -> Tensor:
    """``(N, C, H, W)`` to ``(N, H, W)``."""
    if image.shape[1] != 3:
        return image.mean(1)
    return torch.einsum("nchw,c->nhw", image, image.new_tensor(_GREY))
