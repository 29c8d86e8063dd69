"""Occlusion for pairs: the drop of the score while a window hides the pixel."""

from __future__ import annotations

import torch
from torch import Tensor

from captum_face._validation import Baselines, require_positive_int
from captum_face.attr.base import PairAttribution, on_sides
from captum_face.attr.registry import method
from captum_face.engines.masks import sliding_windows, with_intact
from captum_face.engines.sides import Sides
from captum_face.pair.passes import BatchSize

__all__ = ["PairOcclusion"]


@method("occlusion", family="occlusion", source="arXiv 1311.2901", passes="2 windows + 4 forward")
class PairOcclusion(PairAttribution):
    r"""Occlusion (Zeiler and Fergus, ECCV 2014, arXiv 1311.2901).

    A window slides over one image and hides what lies under it, while the other image stays intact. The
    relevance of a pixel is the mean drop of the score over the windows :math:`w` that hid it:

    .. math:: S_A(p) = \operatorname{mean}_{w \ni p} \left( s(A, B) - s(A \setminus w, B) \right)
    """

    @on_sides
    def attribute(
        self,
        sides: Sides,
        *,
        window: int | tuple[int, int] | None = None,
        strides: int | tuple[int, int] | None = None,
        baselines: Baselines = 0,
        perturbations_per_eval: BatchSize = None,
    ) -> tuple[Tensor, ...]:
        """Signed maps of both images, as :class:`~captum_face.PairAttribution` says.

        Args:
            window: Side of the window in pixels, or ``(height, width)``; None for 16/112 of the sides.
            strides: Steps of the window in pixels, or ``(down, right)``; None for half the window. The
                last window of a row or column lies flush with the border (Captum's is cut off there).

        Returns:
            ``(attr_a, attr_b)`` in units of score. Positive where hiding lowers the score. Deterministic.

        Cost: for each image a forward pass for each window (169 by default), one for the intact image and
        one for its partner. An image that stands against N others is hidden once with a
        :class:`~captum_face.PairSimilarity`.

        Raises:
            TypeError: ``forward_func`` does not answer with numbers.
            ValueError: bad images, scores or options; a window larger than the image, or strides that
                leave gaps.
        """
        height, width = sides.size
        shape = _two(window, "window") or (max(1, round(16 / 112 * height)), max(1, round(16 / 112 * width)))
        steps = _two(strides, "strides") or (max(1, shape[0] // 2), max(1, shape[1] // 2))
        masks = with_intact(sliding_windows(sides.size, shape, steps))
        hidden = (~masks[1:]).double()
        cover = hidden.sum(0)

        def mean_drop(scores: Tensor) -> Tensor:
            drops = scores[:, :1] - scores[:, 1:]
            return torch.einsum("kn,nhw->khw", drops, hidden.to(scores.device)) / cover.to(scores.device)

        return sides.explain_by_masks(masks, mean_drop, baselines=baselines)


def _two(value: object, what: str) -> tuple[int, int] | None:
    """A length for both directions, or one for each."""
    if value is None:
        return None
    both = value if isinstance(value, (tuple, list)) else (value, value)
    if len(both) != 2:
        raise ValueError(f"expected {what} as a number or as two, got {value!r}")
    down, right = (require_positive_int(length, what) for length in both)
    return down, right
