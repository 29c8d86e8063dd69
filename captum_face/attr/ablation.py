"""Captum's perturbation methods for pairs: what happens when a window, a region or a set of cells goes.

They give what :class:`captum.attr.Occlusion`, :class:`~captum.attr.FeatureAblation` and
:class:`~captum.attr.KernelShap` give on each side, computed as statistics of scores under masks: one image
against many partners is perturbed once, and KernelShap needs no scikit-learn.
"""

from __future__ import annotations

import torch
from captum.log import log_usage
from torch import Tensor

from captum_face._validation import Baselines, require_generator, require_positive_int
from captum_face.attr._base import PairAttribution
from captum_face.engines.masks import grid_labels, sliding_windows
from captum_face.maps.regions import TEMPLATE_SIZE, face_regions
from captum_face.pair.passes import BatchSize

__all__ = ["PairFeatureAblation", "PairKernelShap", "PairOcclusion"]


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
            masks = _with_intact(sliding_windows(size, shape, steps))
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


class PairFeatureAblation(PairAttribution):
    r"""Ablation of face regions: the drop of the score when a whole region goes.

    .. math:: S_A(p) = s(A, B) - s(A \setminus R(p), B)

    with :math:`R(p)` the region of the pixel.

    Args:
        forward_func: What gives the scores: a :class:`~captum_face.PairSimilarity`, or any callable
            ``(image_a, image_b) -> (N,)``. No gradients are needed.
    """

    @log_usage()
    def attribute(
        self,
        inputs: tuple[Tensor, Tensor],
        *,
        feature_mask: Tensor | None = None,
        baselines: Baselines = 0,
        perturbations_per_eval: BatchSize = None,
        show_progress: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Signed maps of both images; what the inputs and the result are stands at
        :class:`~captum_face.PairAttribution`.

        Args:
            inputs: ``(image_a, image_b)``.
            feature_mask: Integers ``(H, W)``: pixels of one number go together. None for the
                :func:`~captum_face.maps.regions.face_regions` of aligned 112 x 112 crops, and for a grid of 7
                by 7 cells on images of another size.
            baselines: What hidden pixels show: a number (0 is black), ``"partner"`` for the other image of
                the pair, a tensor ``(1, C, H, W)`` or ``(N, C, H, W)``, or a tuple of two of these for
                the two sides.
            perturbations_per_eval: Masked images in one forward pass; memory grows with it. None for what
                suits the device, ``"auto"`` for what is measured to be cheapest.
            show_progress: Show a progress bar over the regions.

        Returns:
            ``(attr_a, attr_b)`` in units of score, the same for all pixels of a region. Positive where
            hiding the region lowers the score. Deterministic.

        Cost: for each image a forward pass for each region (11 on a face), one for the intact image and
        one for its partner. An image that stands against N others is hidden once with a
        :class:`~captum_face.PairSimilarity`.

        Raises:
            TypeError: ``forward_func`` does not answer with numbers, or ``feature_mask`` is no tensor of
                integers.
            ValueError: bad images, scores or options.
        """
        with self._prepared(inputs) as images:
            size = (images[0].shape[2], images[0].shape[3])
            features = _features(feature_mask, size, default=_face_labels(size))
            masks = _with_intact(~features)

            def drop(scores: Tensor) -> Tensor:
                drops = scores[:, :1] - scores[:, 1:]
                return torch.einsum("kn,nhw->khw", drops, features.to(drops))

            return self._explain_by_masks(
                images,
                masks,
                drop,
                baselines=baselines,
                perturbations_per_eval=perturbations_per_eval,
                show_progress=show_progress,
            )


class PairKernelShap(PairAttribution):
    r"""Kernel SHAP over cells of the image (Lundberg and Lee, NeurIPS 2017, arXiv 1705.07874).

    The Shapley value of each cell in the game whose payoff is the score of the image with some cells
    visible: coalitions are drawn with the Shapley kernel's probabilities, and the values are the least
    squares fit of a sum over visible cells to the scores, held to

    .. math:: \sum_i \phi_i = s(A, B) - s(\text{baseline}, B)

    As in :class:`captum.attr.KernelShap`, with that sum exact instead of heavily weighted, and with
    coalitions drawn in pairs that complement each other (Covert and Lee 2021, arXiv 2012.01536), which
    makes the values less noisy.

    Args:
        forward_func: What gives the scores: a :class:`~captum_face.PairSimilarity`, or any callable
            ``(image_a, image_b) -> (N,)``. No gradients are needed.
    """

    @log_usage()
    def attribute(
        self,
        inputs: tuple[Tensor, Tensor],
        *,
        n_samples: int = 500,
        feature_mask: Tensor | None = None,
        baselines: Baselines = 0,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        perturbations_per_eval: BatchSize = None,
        show_progress: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Signed maps of both images; what the inputs and the result are stands at
        :class:`~captum_face.PairAttribution`.

        Args:
            inputs: ``(image_a, image_b)``.
            n_samples: Coalitions of cells; at least twice their number is sound.
            feature_mask: Integers ``(H, W)``: pixels of one number are a cell. None for a grid of 7 by 7.
            baselines: What hidden pixels show: a number (0 is black), ``"partner"`` for the other image of
                the pair, a tensor ``(1, C, H, W)`` or ``(N, C, H, W)``, or a tuple of two of these for
                the two sides.
            seed: Makes the maps repeatable; without it and ``generator``, torch's global state is used.
            generator: The source of randomness itself, instead of ``seed``.
            perturbations_per_eval: Masked images in one forward pass; memory grows with it. None for what
                suits the device, ``"auto"`` for what is measured to be cheapest.
            show_progress: Show a progress bar over the coalitions.

        Returns:
            ``(attr_a, attr_b)`` in units of score, a cell's Shapley value at each of its pixels. Positive
            where seeing the cell raises the score. All images of a call share their coalitions.

        Cost: for each image ``n_samples + 2`` forward passes and one for its partner. An image that stands
        against N others is masked once with a :class:`~captum_face.PairSimilarity`.

        Raises:
            TypeError: ``forward_func`` does not answer with numbers, or ``feature_mask`` is no tensor of
                integers.
            ValueError: bad images, scores or options, fewer than two cells.
        """
        generator = require_generator(seed, generator)
        require_positive_int(n_samples, "n_samples")
        with self._prepared(inputs) as images:
            size = (images[0].shape[2], images[0].shape[3])
            features = _features(feature_mask, size, default=None).double()
            if len(features) < 2:
                raise ValueError("expected a feature_mask of at least two cells, got one")
            coalitions = _coalitions(n_samples, len(features), generator).cpu()
            masks = torch.einsum("nf,fhw->nhw", coalitions, features) > 0.5

            def shapley(scores: Tensor) -> Tensor:
                values = _shapley_fit(coalitions[2:], scores[:, 2:], scores[:, 0], scores[:, 1])
                return torch.einsum("kf,fhw->khw", values, features)

            return self._explain_by_masks(
                images,
                masks,
                shapley,
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


def _with_intact(masks: Tensor) -> Tensor:
    """The mask that hides nothing before all others."""
    return torch.cat([torch.ones_like(masks[:1]), masks])


def _face_labels(size: tuple[int, int]) -> Tensor | None:
    if size != (TEMPLATE_SIZE, TEMPLATE_SIZE):
        return None
    return torch.stack(list(face_regions().values())).int().argmax(0)


def _features(feature_mask: object, size: tuple[int, int], *, default: Tensor | None) -> Tensor:
    """Features ``(F, H, W)`` bool: which pixels go together."""
    labels = feature_mask if feature_mask is not None else default
    if labels is None:
        labels = grid_labels(size, min(7, *size))
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.dtype == torch.bool:
        came = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(f"expected feature_mask as a tensor of integers (H, W), got {came}")
    if labels.numel() != size[0] * size[1] or labels.shape[-2:] != size:
        raise ValueError(
            f"expected feature_mask of shape ({size[0]}, {size[1]}), the size of the images, "
            f"got {tuple(labels.shape)}"
        )
    labels = labels.reshape(size).cpu()
    return torch.stack([labels == label for label in labels.unique()])


def _coalitions(n_samples: int, cells: int, generator: torch.Generator | None) -> Tensor:
    """Visible cells ``(2 + n, F)`` as 0 and 1: all, none, then draws from the Shapley kernel in pairs."""
    device = generator.device if generator is not None else None
    sizes = torch.arange(1, cells, device=device, dtype=torch.float64)
    half = -(-n_samples // 2)
    drawn = torch.multinomial(1 / (sizes * (cells - sizes)), half, True, generator=generator) + 1
    ranks = torch.rand(half, cells, generator=generator, device=device).argsort(1).argsort(1)
    visible = (ranks < drawn[:, None]).double()
    ends = torch.tensor([[1.0], [0.0]], dtype=torch.float64, device=device).expand(2, cells)
    return torch.cat([ends, visible, 1 - visible])[: 2 + n_samples]


def _shapley_fit(coalitions: Tensor, scores: Tensor, full: Tensor, empty: Tensor) -> Tensor:
    """Least squares of ``scores - empty`` on visible cells, with the sum held to ``full - empty``.

    Args:
        coalitions: ``(n, F)`` of 0 and 1.
        scores: ``(K, n)``.
        full: ``(K,)`` with all cells visible.
        empty: ``(K,)`` with none.

    Returns:
        ``(K, F)``. Where the coalitions leave cells undetermined, the smallest values that fit.
    """
    cells = coalitions.shape[1]
    gap = (full - empty)[:, None]
    # Equal shares of the gap, plus a part that sums to zero: only a coalition's centred row acts on that,
    # and the pseudoinverse of centred rows gives nothing else.
    even = gap / cells
    visible = coalitions - coalitions.mean(1, keepdim=True)
    residual = scores - empty[:, None] - coalitions.sum(1) * even
    return even + residual @ torch.linalg.pinv(visible).T
