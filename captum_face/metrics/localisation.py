"""Does the evidence lie where the images are known to differ (or agree)?

The truth is a mask: the changed parts of a synthetic pair (:func:`captum_face.data.synthetic.pair`), or the
patches of another person (:func:`~captum_face.metrics.paste_patches`). What was changed speaks against a
match, so by default the evidence of a signed map S is ``-S``: ``order="dissimilar"``.

A map that says nothing scores what a random ranking of the pixels scores on average, neither better nor
worse, so that empty maps can stand in one table with others.
"""

from __future__ import annotations

import torch
from torch import Tensor

from captum_face._validation import require_choice
from captum_face.maps.ranks import average_ranks
from captum_face.maps.signed import pixel_map

__all__ = ["pixel_auc", "pointing_game", "relevance_mass"]


def relevance_mass(attr: Tensor, mask: Tensor, order: str = "dissimilar") -> Tensor:
    """Share of the positive evidence that lies inside the mask.

    Known as relevance mass accuracy (Arras, Osman and Samek 2022, arXiv 2003.07258, equation 1).

    Args:
        attr: ``(N, C, H, W)`` or ``(N, H, W)``, one side's signed map.
        mask: ``(N, H, W)``, or ``(1, H, W)`` for all: bool or 0/1, True where the truth lies.
        order: ``"dissimilar"``: the evidence is -S; ``"similar"``: it is S.

    Returns:
        ``(N,)`` float64 in [0, 1], higher is better. A map without positive evidence scores the mask's
        share of the area, which is also what a constant map scores.

    Raises:
        TypeError: not a tensor of floats, or a mask that is not a tensor.
        ValueError: shapes that do not match, NaN, an empty mask, mask values neither 0 nor 1.

    Example::

        >>> attr = torch.tensor([[[-3.0, -1.0], [5.0, 0.0]]])
        >>> relevance_mass(attr, torch.tensor([[[1, 0], [0, 0]]]))
        tensor([0.7500], dtype=torch.float64)
    """
    evidence, inside = _evidence(attr, mask, order)
    positive = evidence.clamp(min=0)
    # Scaled first: sums of tiny values keep their digits.
    positive = positive / positive.amax(1, keepdim=True).where(positive.any(1, keepdim=True), 1)
    total = positive.sum(1)
    return ((positive * inside).sum(1) / total).where(total > 0, inside.double().mean(1))


def pixel_auc(attr: Tensor, mask: Tensor, order: str = "dissimilar") -> Tensor:
    """Area under the ROC curve of the pixels ranked by signed evidence.

    The probability that a pixel inside the mask has more evidence than one outside, ties counting half
    (Mann and Whitney's U). Only the order matters, over the whole range: pixels with evidence to the
    contrary rank below those with none.

    Args:
        attr: As in :func:`relevance_mass`.
        mask: As in :func:`relevance_mass`.
        order: As in :func:`relevance_mass`.

    Returns:
        ``(N,)`` float64 in [0, 1], higher is better; a constant map scores 0.5.

    Raises:
        TypeError, ValueError: as :func:`relevance_mass`; also a mask that is full.

    Example::

        >>> attr = torch.tensor([[[-3.0, 0.0], [0.0, 1.0]]])
        >>> pixel_auc(attr, torch.tensor([[[1, 1], [0, 0]]]))
        tensor([0.8750], dtype=torch.float64)
    """
    evidence, inside = _evidence(attr, mask, order)
    hits = inside.sum(1)
    misses = inside.shape[1] - hits
    if (misses == 0).any():
        raise ValueError(
            f"expected masks with pixels inside and outside, got a full one at index {_first(misses == 0)}: "
            "there is nothing to rank"
        )
    wins = (average_ranks(evidence) * inside).sum(1) - hits * (hits + 1) / 2
    return wins / (hits * misses)


def pointing_game(attr: Tensor, mask: Tensor, order: str = "dissimilar") -> Tensor:
    """Whether the pixel with the most signed evidence lies inside the mask.

    After Zhang et al., ECCV 2016, arXiv 1608.00507, without their tolerance of 15 pixels. One pixel
    decides, so the mean over many pairs is what counts.

    Args:
        attr: As in :func:`relevance_mass`.
        mask: As in :func:`relevance_mass`.
        order: As in :func:`relevance_mass`.

    Returns:
        ``(N,)`` float64: 1 inside, 0 outside; where several pixels are strongest, the share of them that
        lies inside. A constant map scores the mask's share of the area. The strongest pixel counts even
        if its evidence is negative, as the least evidence to the contrary.

    Raises:
        TypeError, ValueError: as :func:`relevance_mass`.

    Example::

        >>> attr = torch.tensor([[[-3.0, -3.0], [0.0, 1.0]]])
        >>> pointing_game(attr, torch.tensor([[[1, 0], [0, 0]]]))
        tensor([0.5000], dtype=torch.float64)
    """
    evidence, inside = _evidence(attr, mask, order)
    strongest = evidence == evidence.amax(1, keepdim=True)
    return (strongest & inside).sum(1).double() / strongest.sum(1)


def _evidence(attr: Tensor, mask: Tensor, order: str) -> tuple[Tensor, Tensor]:
    """Signed evidence in double precision and the mask as bool, ``(N, H * W)`` each."""
    require_choice(order, ("dissimilar", "similar"), "order")
    signed = pixel_map(attr).detach().double()
    if not isinstance(mask, Tensor):
        raise TypeError(f"expected mask as a torch.Tensor (N, H, W), got {type(mask).__name__}")
    if mask.ndim != 3 or mask.shape[1:] != signed.shape[1:] or len(mask) not in (1, len(signed)):
        n, height, width = signed.shape
        raise ValueError(
            f"expected a mask of shape ({n}, {height}, {width}) or (1, {height}, {width}), the size of the "
            f"maps, got {tuple(mask.shape)}"
        )
    if not ((mask == 0) | (mask == 1)).all():
        raise ValueError("expected mask values 0 or 1, got others; threshold soft masks first")
    inside = mask.to(signed.device).bool().expand_as(signed).flatten(1)
    empty = ~inside.any(1)
    if empty.any():
        raise ValueError(
            f"expected masks that mark something, got an empty one at index {_first(empty)}: leave such "
            "pairs out, and count them"
        )
    return (signed if order == "similar" else -signed).flatten(1), inside


def _first(condition: Tensor) -> int:
    return int(torch.nonzero(condition)[0])
