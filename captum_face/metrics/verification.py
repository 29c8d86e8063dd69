"""How well scores separate genuine from impostor pairs, and the threshold that follows.

Everywhere a pair is accepted when ``score >= threshold``. Rates are those of ISO/IEC 19795: the false match
rate (FMR, here also FAR) is the share of impostor pairs accepted, the true match rate (TMR, TAR) that of
genuine pairs, and the false non-match rate (FNMR) is ``1 - TMR``.

Thresholds that a function chooses lie midway between the lowest score accepted and the highest rejected,
so that rounding does not flip a decision; above the highest score and at the lowest where one is missing.
"""

from __future__ import annotations

import math
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from captum_face._validation import require_choice, require_labels
from captum_face.pair.embedding import scored
from captum_face.pair.scores import Threshold
from captum_face.pair.similarity import PairSimilarity

__all__ = [
    "EER",
    "ROC",
    "KFoldAccuracy",
    "best_accuracy",
    "calibrate_threshold",
    "eer",
    "kfold_accuracy",
    "pair_scores",
    "roc",
    "tar_at_far",
]


class ROC(NamedTuple):
    """Error rates at every distinct threshold, all ``(T,)`` float64, from the strictest on."""

    thresholds: Tensor  #: infinity, where nothing is accepted, then every distinct score downwards
    fmr: Tensor  #: share of impostor pairs accepted, rising from 0 to 1
    tmr: Tensor  #: share of genuine pairs accepted, rising from 0 to 1


class EER(NamedTuple):
    """The equal error rate and the threshold nearest to it."""

    rate: float  #: in [0, 1], lower is better; about 0.5 when the scores know nothing
    threshold: float  #: in units of the score


class KFoldAccuracy(NamedTuple):
    """Accuracy over cross-validation folds."""

    mean: float  #: in [0, 1], higher is better
    standard_error: float  #: of the mean over folds


def roc(scores: Any, same: Any) -> ROC:
    """The ROC curve without any thinning: each distinct score is a threshold, so ties move together.

    Args:
        scores: ``(N,)`` tensor, array or list; higher means more alike.
        same: ``(N,)`` bool or 0/1, True for genuine pairs.

    Returns:
        :class:`ROC` of one point more than there are distinct scores.

    Raises:
        TypeError: scores or labels that are not numbers.
        ValueError: no pair, two lengths, NaN or infinite scores, labels neither 0 nor 1, one class only.

    Example::

        >>> curve = roc([0.9, 0.4, 0.4, 0.1], [1, 1, 0, 0])
        >>> curve.thresholds.tolist(), curve.fmr.tolist(), curve.tmr.tolist()
        ([inf, 0.9, 0.4, 0.1], [0.0, 0.0, 0.5, 1.0], [0.0, 0.5, 1.0, 1.0])
    """
    thresholds, false, true, n_impostor, n_genuine = _counts(*_require_labelled(scores, same))
    return ROC(thresholds, false.double() / n_impostor, true.double() / n_genuine)


def eer(scores: Any, same: Any) -> EER:
    """The rate at which FMR and FNMR are equal.

    Both are step functions of the threshold, so in general no threshold makes them equal. The rate is
    where the straight line between the two neighbouring points of the ROC crosses ``FMR = FNMR``: unless
    scores are tied, a multiple of one over the number of pairs of a class. The threshold is that of the
    point with the smaller difference, the stricter one if both are as near.

    Args:
        scores: As in :func:`roc`.
        same: As in :func:`roc`.

    Raises:
        TypeError, ValueError: as :func:`roc`.

    Example: of three genuine pairs one scores below one of three impostors. In the second case a genuine
    and an impostor pair share a score, and the line from (0, 1/2) to (1/2, 0) crosses at 1/4::

        >>> eer([0.9, 0.8, 0.5, 0.6, 0.2, 0.1], [1, 1, 1, 0, 0, 0])
        EER(rate=0.3333333333333333, threshold=0.55)
        >>> eer([0.9, 0.5, 0.5, 0.1], [1, 1, 0, 0])
        EER(rate=0.25, threshold=0.7)
    """
    curve = roc(scores, same)
    # From 1 down to -1, strictly: every threshold accepts at least one pair more than the one before.
    difference = (1 - curve.tmr) - curve.fmr
    after = int((difference <= 0).nonzero()[0])
    before = after - 1
    share = difference[before] / (difference[before] - difference[after])
    rate = curve.fmr[before] + share * (curve.fmr[after] - curve.fmr[before])
    nearest = before if difference[before] <= -difference[after] else after
    return EER(float(rate), _threshold(curve.thresholds, nearest))


def best_accuracy(scores: Any, same: Any) -> tuple[float, float]:
    """The highest share of right decisions that any threshold reaches, and that threshold.

    Chosen and measured on the same pairs, it flatters: see :func:`kfold_accuracy`. Of thresholds that do
    equally well the strictest is taken.

    Args:
        scores: As in :func:`roc`.
        same: As in :func:`roc`.

    Returns:
        ``(accuracy, threshold)``; the accuracy is at least the share of the more frequent class.

    Raises:
        TypeError, ValueError: as :func:`roc`.

    Example::

        >>> best_accuracy([0.9, 0.7, 0.3, 0.1], [1, 1, 0, 0])
        (1.0, 0.5)
    """
    thresholds, false, true, n_impostor, n_genuine = _counts(*_require_labelled(scores, same))
    right = true + n_impostor - false
    best = int((right == right.max()).nonzero()[0])
    return float(right[best]) / (n_impostor + n_genuine), _threshold(thresholds, best)


def tar_at_far(scores: Any, same: Any, far: float) -> float:
    """The largest true match rate at a false match rate of at most ``far``; nothing is interpolated.

    Args:
        scores: As in :func:`roc`.
        same: As in :func:`roc`.
        far: In (0, 1]. One false match in n impostor pairs is a rate of 1/n, so a smaller ``far`` cannot
            be told from 0 with n pairs. For a stable value, ISO/IEC 19795 practice wants 30 false matches.

    Returns:
        The true match rate in [0, 1], higher is better.

    Raises:
        TypeError, ValueError: as :func:`roc`; a ``far`` outside (0, 1], or below 1/n.

    Example::

        >>> tar_at_far([0.9, 0.5, 0.3, 0.6, 0.2], [1, 1, 1, 0, 0], far=0.5)
        1.0
    """
    scores, same = _require_labelled(scores, same)
    curve = roc(scores, same)
    return float(curve.tmr[_point_at_far(curve, far, int((~same).sum()))])


def kfold_accuracy(scores: Any, same: Any, folds: Any = 10) -> KFoldAccuracy:
    """Verification accuracy by LFW's protocol: the threshold of each fold comes from the other folds.

    The mean over folds and its standard error (sample standard deviation over folds, divided by the
    root of their number) after Huang et al., Labeled Faces in the Wild, 2007. The threshold is that of
    :func:`best_accuracy` on the other folds.

    Args:
        scores: As in :func:`roc`.
        same: As in :func:`roc`.
        folds: The fold of each pair ``(N,)`` as integers, or how many folds to make. These are contiguous
            within each class, so that every fold has both; on LFW's list they are LFW's own.

    Raises:
        TypeError, ValueError: as :func:`roc`; fewer than 2 folds, more than pairs of a class, folds of
            another length, or a fold without which one class is missing.

    Example::

        >>> kfold_accuracy([0.9, 0.2, 0.8, 0.1], [1, 0, 1, 0], folds=[0, 0, 1, 1])
        KFoldAccuracy(mean=1.0, standard_error=0.0)
    """
    scores, same = _require_labelled(scores, same)
    fold_of = _require_folds(folds, same)
    accuracies = []
    for fold in fold_of.unique():
        held_out = fold_of == fold
        if same[~held_out].all() or not same[~held_out].any():
            raise ValueError(
                f"expected genuine and impostor pairs outside of fold {int(fold)}, where its threshold is "
                "chosen, got one class only"
            )
        _, threshold = best_accuracy(scores[~held_out], same[~held_out])
        accuracies.append(((scores[held_out] >= threshold) == same[held_out]).double().mean())
    values = torch.stack(accuracies)
    return KFoldAccuracy(float(values.mean()), float(values.std()) / math.sqrt(len(values)))


def pair_scores(
    pair: PairSimilarity,
    pairs: Any,
    *,
    batch_size: int | None = None,
    flip: bool = False,
    show_progress: bool = False,
) -> Tensor:
    """Scores of many pairs of images.

    Args:
        pair: The model; it runs in eval mode and is left as it was.
        pairs: A :class:`captum_face.data.FacePairs`, any sequence of ``(image_a, image_b, same)`` with
            images ``(C, H, W)`` in [0, 1], or such a triple of batches, as
            :func:`captum_face.data.synthetic.pairs` gives.
        batch_size: Images in one forward pass; None for what suits the device.
        flip: Add to each embedding that of the mirrored image (the flip trick). The two are summed as the
            model gives them, before the score normalises. Usual in tables on LFW; the scores are no longer
            those of ``pair``, nor is their threshold its own.
        show_progress: Show a progress bar over the images.

    Returns:
        ``(N,)`` on the CPU, without gradients.

    Cost: one forward pass for each different image (two with ``flip``), however many pairs it is in.
    Images without names count as one when they are equal. Memory: one embedding per image.

    Raises:
        TypeError: ``pair`` is no PairSimilarity, or ``pairs`` no sequence of triples.
        ValueError: no pair, images of two sizes, and what :meth:`~captum_face.PairSimilarity.embed` raises.
    """
    return scored(pair, pairs, batch_size, flip, show_progress)[0]


def calibrate_threshold(
    pair: PairSimilarity,
    pairs: Any,
    *,
    criterion: str = "eer",
    far: float | None = None,
    batch_size: int | None = None,
    show_progress: bool = False,
) -> Threshold:
    """A verification threshold from pairs whose identity is known. It is returned, not set::

        pair.threshold = calibrate_threshold(pair, pairs)

    It knows where it came from (:class:`~captum_face.pair.scores.Threshold`), and every summary says so.

    Take other people's pairs than those you evaluate on, or the error rates will flatter.

    Args:
        pair: As in :func:`pair_scores`.
        pairs: As in :func:`pair_scores`.
        criterion: ``"eer"``: where both error rates are equal; ``"accuracy"``: most right decisions;
            ``"far"``: the lowest threshold with a false match rate of at most ``far``.
        far: The false match rate for ``criterion="far"``.
        batch_size: As in :func:`pair_scores`.
        show_progress: As in :func:`pair_scores`.

    Cost: that of :func:`pair_scores`.

    Raises:
        TypeError, ValueError: as :func:`pair_scores`, :func:`roc` and :func:`tar_at_far`; an unknown
            criterion, or a ``far`` that is missing or does not belong.
    """
    require_choice(criterion, ("eer", "accuracy", "far"), "criterion")
    if (far is None) == (criterion == "far"):
        raise ValueError(f"expected far with criterion='far' and only then, got {criterion=} and {far=}")
    scores, same = _require_labelled(*scored(pair, pairs, batch_size, False, show_progress))
    if criterion == "eer":
        return pair.score.found(eer(scores, same).threshold, f"EER of {len(same)} listed pairs")
    if criterion == "accuracy":
        return pair.score.found(best_accuracy(scores, same)[1], f"best accuracy on {len(same)} listed pairs")
    curve, impostors = roc(scores, same), int((~same).sum())
    chosen = _threshold(curve.thresholds, _point_at_far(curve, far, impostors))
    return pair.score.found(chosen, f"chosen at FMR {far:g} on {impostors} impostor pairs")


def _counts(scores: Tensor, same: Tensor) -> tuple[Tensor, Tensor, Tensor, int, int]:
    """Thresholds downwards from infinity, impostor and genuine pairs accepted at each, and all of each."""
    values, group = torch.unique(-scores, return_inverse=True)
    accepted = [
        torch.cat([torch.zeros(1).long(), torch.bincount(group[kind], minlength=len(values)).cumsum(0)])
        for kind in (~same, same)
    ]
    thresholds = torch.cat([torch.tensor([math.inf], dtype=torch.float64), -values])
    return thresholds, accepted[0], accepted[1], int((~same).sum()), int(same.sum())


def _threshold(thresholds: Tensor, point: int) -> float:
    """A finite threshold that decides as ``thresholds[point]`` does, with room on both sides."""
    if point == 0:
        return math.nextafter(float(thresholds[1]), math.inf)
    if point == len(thresholds) - 1:
        return float(thresholds[point])
    accepted, rejected = float(thresholds[point]), float(thresholds[point + 1])
    middle = accepted / 2 + rejected / 2
    return middle if middle > rejected else accepted


def _point_at_far(curve: ROC, far: object, impostors: int) -> int:
    """The last point of the curve at a false match rate of at most ``far``."""
    if isinstance(far, bool) or not isinstance(far, (int, float)) or not 0 < far <= 1:
        raise ValueError(f"expected far as a rate in (0, 1], got {far!r}")
    if far < 1 / impostors:
        raise ValueError(
            f"expected far of at least 1/{impostors} = {1 / impostors:.3g}, which is one false match in "
            f"{impostors} impostor pair(s), got {far}; a lower rate cannot be told from 0 with so few"
        )
    return int((curve.fmr <= far).nonzero()[-1])


def _require_labelled(scores: Any, same: Any) -> tuple[Tensor, Tensor]:
    """Scores as float64 and labels as bool, ``(N,)`` each on the CPU."""
    scores = _numbers(scores, "scores").double()
    if scores.ndim != 1:
        raise ValueError(f"expected one score for each pair (N,), got scores {tuple(scores.shape)}")
    same = require_labels(same, len(scores))
    if len(scores) == 0:
        raise ValueError("expected at least one genuine and one impostor pair, got none")
    bad = (~torch.isfinite(scores)).nonzero()
    if len(bad):
        raise ValueError(
            f"expected finite scores, got {float(scores[bad[0]])} at index {int(bad[0])} ({len(bad)} in all)"
        )
    if same.all() or not same.any():
        kind = "genuine" if same.all() else "impostor"
        raise ValueError(f"expected genuine and impostor pairs, got {len(same)} {kind} pair(s) only")
    return scores, same


def _numbers(values: Any, what: str) -> Tensor:
    if isinstance(values, Tensor):
        return values.detach().cpu()
    try:
        # By way of numpy, as torch would read a list in single precision.
        return torch.as_tensor(np.asarray(values))
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"expected {what} as numbers (N,), got {type(values).__name__}: {error}") from error


def _require_folds(folds: Any, same: Tensor) -> Tensor:
    """The fold of each pair ``(N,)``."""
    if not isinstance(folds, Integral) or isinstance(folds, bool):
        fold_of = _numbers(folds, "folds")
        if fold_of.shape != same.shape or fold_of.is_floating_point():
            raise ValueError(
                f"expected a fold for each of {len(same)} pairs as an integer, got {tuple(fold_of.shape)} "
                f"of {fold_of.dtype}"
            )
        if len(fold_of.unique()) < 2:
            raise ValueError("expected at least 2 folds, got 1")
        return fold_of
    folds = int(folds)
    fewest = int(min(same.sum(), (~same).sum()))
    if not 2 <= folds <= fewest:
        raise ValueError(
            f"expected at least 2 folds and at most {fewest}, the pairs of the rarer class, got {folds}"
        )
    fold_of = torch.empty(len(same), dtype=torch.long)
    for kind in (same, ~same):
        count = int(kind.sum())
        fold_of[kind] = torch.arange(count) * folds // count
    return fold_of
