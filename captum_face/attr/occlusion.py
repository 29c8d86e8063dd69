"""Occlusion for pairs: the drop of the score while a window hides the pixel."""

from __future__ import annotations

import torch
from captum.log import log_usage
from torch import Tensor

from captum_face._validation import Baselines, require_positive_int
from captum_face.attr._base import PairAttribution
from captum_face.engines.masks import sliding_windows, with_intact
from captum_face.pair.passes import BatchSize

__all__ = ["PairOcclusion"]


class PairOcclusion(PairAttribution):
    r"""Occlusion (Zeiler and Fergus, ECCV 2014, arXiv 1311.2901).

    A window slides over one image and hides what lies under it, while the other image stays intact. The
    relevance of a pixel is the mean drop of the score over the windows :math:`w` that hid it:

    .. math:: S_A(p) = \operatorname{mean}_{w \ni p} \left( s(A, B) - s(A \setminus w, B) \right)

    Args:
        forward_func: What gives the scores: a :class:`~captum_face.PairSimilarity`, or any callable
            ``(image_a, image_b) -> (N,)``. No gradients are needed.
    """

    @log_usage()
    def attribute(
        self,
        inputs: tuple[Tensor, Tensor],
        *,
        window: int | tuple[int, int] | None = None,
        strides: int | tuple[int, int] | None = None,
        baselines: Baselines = 0,
        perturbations_per_eval: BatchSize = None,
        show_progress: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Signed maps of both images; what the inputs and the result are stands at
        :class:`~captum_face.PairAttribution`.

        Args:
            inputs: ``(image_a, image_b)``.
            window: Side of the window in pixels, or ``(height, width)``; None for 16/112 of the sides.
            strides: Steps of the window in pixels, or ``(down, right)``; None for half the window. The
                last window of a row or column lies flush with the border (Captum's is cut off there).
            baselines: What hidden pixels show: a number (0 is black), ``"partner"`` for the other image of
                the pair, a tensor ``(1, C, H, W)`` or ``(N, C, H, W)``, or a tuple of two of these for
                the two sides.
            perturbations_per_eval: Masked images in one forward pass; memory grows with it. None for what
                suits the device, ``"auto"`` for what is measured to be cheapest.
            show_progress: Show a progress bar over the windows.

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
        with self._prepared(inputs) as images:
            size = (images[0].shape[2], images[0].shape[3])
            shape = _two(window, "window") or (
                max(1, round(16 / 112 * size[0])),
                max(1, round(16 / 112 * size[1])),
            )
            steps = _two(strides, "strides") or (max(1, shape[0] // 2), max(1, shape[1] // 2))
            masks = with_intact(sliding_windows(size, shape, steps))
            hidden = (~masks[1:]).double()
            cover = hidden.sum(0)

            def mean_drop(scores: Tensor) -> Tensor:
                drops = scores[:, :1] - scores[:, 1:]
                return torch.einsum("kn,nhw->khw", drops, hidden.to(scores.device)) / cover.to(scores.device)

            return self._explain_by_masks(
                images,
                masks,
                mean_drop,
                baselines=baselines,
                perturbations_per_eval=perturbations_per_eval,
                show_progress=show_progress,
            )


def _two(value: object, what: str) -> tuple[int, int] | None:
    """A length for both directions, or one for each."""
    if value is None:
        return None
    both = value if isinstance(value, (tuple, list)) else (value, value)
    if len(both) != 2:
        raise ValueError(f"expected {what} as a number or as two, got {value!r}")
    down, right = (require_positive_int(length, what) for length in both)
    return down, right
