"""A verification threshold at a false match rate, and how sure a list of pairs is of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from captum_face._validation import require_positive_int
from captum_face.data.face_pairs import FacePairs
from captum_face.engines.cohort import People
from captum_face.metrics.verification import _point_at_far, _require_labelled, _threshold, eer, roc
from captum_face.pair.scores import Score, Threshold, shown, shown_summary

__all__ = ["LEAST_FALSE_MATCHES", "OperatingPoint", "listed_people", "operating_point", "require_far"]

#: A list supports a false match rate if so many of its impostor pairs are expected to be accepted. It is the
#: rule of three (Hanley and Lippman-Hand, JAMA 1983): n pairs without an error show at a confidence of 95 %
#: that the rate is below 3 / n, and nothing lower.
LEAST_FALSE_MATCHES = 3
_QUANTILE = 1.959963984540054  # of the standard normal distribution, for 95 %


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold with error rates and 95 % confidence intervals; made by :func:`operating_point`."""

    threshold: Threshold  #: the lowest with a false match rate of at most :attr:`far` on the list
    interval: tuple[float, float]  #: of the threshold at this rate
    far: float  #: the false match rate that was asked for
    fmr: float  #: share of the impostor pairs that the threshold accepts
    fmr_interval: tuple[float, float]  #: of the rate of this very threshold
    fnmr: float  #: share of the genuine pairs that the threshold rejects
    fnmr_interval: tuple[float, float]  #: of the rate of this very threshold
    eer: float  #: the list's equal error rate
    eer_threshold: float  #: the threshold nearest to it
    n_genuine: int  #: genuine pairs
    n_impostor: int  #: impostor pairs
    resampled: str  #: what the bootstrap drew, ``"208 people"`` or ``"pairs"``

    def summary(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        summary = asdict(self) | {"threshold": float(self.threshold), "source": self.threshold.source}
        if self.threshold.score is not None:
            summary["score"] = self.threshold.score
        if (distance := self.threshold.distance) is not None:
            summary |= shown_summary(None, self.threshold)
            summary["shown"] |= {
                "interval": sorted(map(distance.of, self.interval)),
                "eer_threshold": distance.of(self.eer_threshold),
            }
        return summary

    def __str__(self) -> str:
        def rate(value: float, interval: tuple[float, float]) -> str:
            return f"{value:.2%} (95 % interval {interval[0]:.2%} to {interval[1]:.2%})"

        distance = self.threshold.distance
        low, high = sorted(shown(end, distance) for end in self.interval)
        quantity = "" if distance is None else f" ({distance.name})"
        limit, equal = shown(self.threshold), shown(self.eer_threshold, distance)
        return "\n".join(
            (
                f"threshold {limit:.4f}{quantity} at FMR {self.far:g} "
                f"(95 % interval {low:.4f} to {high:.4f})",
                f"FMR   {rate(self.fmr, self.fmr_interval)} of {self.n_impostor} impostor pairs",
                f"FNMR  {rate(self.fnmr, self.fnmr_interval)} of {self.n_genuine} genuine pairs",
                f"EER   {self.eer:.2%} at {equal:.4f}",
                f"intervals: bootstrap over {self.resampled}",
            )
        )


def operating_point(
    scores: Any,
    same: Any,
    far: float,
    *,
    people: Any = None,
    n_bootstrap: int = 1000,
    seed: int = 0,
    score: Score | None = None,
) -> OperatingPoint:
    """The threshold at a false match rate, with confidence intervals.

    The intervals come from a bootstrap. Pairs that share a person are not independent, so people are drawn
    with replacement, and a pair counts as often as both of its people were drawn (the pigeonhole bootstrap,
    Owen, Annals of Applied Statistics 2007, which errs on the wide side; a genuine pair counts as often as
    its one person). The threshold's interval holds the middle 95 % of the thresholds that the draws give.
    The rates' intervals are Wilson's (1927) for a fixed threshold, with as many independent pairs as give
    the bootstrap's variance (as Fogliato et al. do, arXiv 2306.01198).

    Args:
        scores: ``(N,)`` tensor, array or list; higher means more alike.
        same: ``(N,)`` bool or 0/1, True for genuine pairs.
        far: The false match rate in (0, 1].
        people: ``(N, 2)`` integers: whom both images of each pair show, such as :func:`listed_people` gives.
            None draws pairs instead, as if no two of them shared a person.
        n_bootstrap: Draws.
        seed: Of the draws.
        score: What the scores are of: ``pair.score``. The threshold then belongs to this score, and where
            that stands for a distance it is printed as one.

    Cost: no pass of a model; time in ``n_bootstrap`` times N.

    Raises:
        TypeError, ValueError: as :func:`~captum_face.metrics.roc`; a ``far`` that so few impostor pairs
            cannot support (``LEAST_FALSE_MATCHES``), or people that do not fit the labels.

    Example::

        >>> import torch
        >>> generator = torch.Generator().manual_seed(1)
        >>> scores = torch.cat([torch.randn(500, generator=generator) + s for s in (4, 0)])
        >>> found = operating_point(scores, [1] * 500 + [0] * 500, far=0.05)
        >>> round(found.threshold, 2), found.fmr  # the normal distribution has 5 % above 1.64
        (1.67, 0.05)
        >>> found.interval[0] < 1.64 < found.interval[1]
        True
    """
    scores, same = _require_labelled(scores, same)
    require_positive_int(n_bootstrap, "n_bootstrap")
    genuine, impostor = scores[same].numpy(), scores[~same].numpy()
    require_far(far, len(impostor))
    curve = roc(scores, same)
    point = _point_at_far(curve, far, len(impostor))
    threshold = _threshold(curve.thresholds, point)
    equal = eer(scores, same)
    draw, resampled = _draws(people, same.numpy(), np.random.default_rng(seed))

    # The threshold just above each impostor score, as it is chosen on the whole list.
    order = np.argsort(-impostor, kind="stable")
    places = np.searchsorted(-curve.thresholds.numpy(), -impostor[order])
    # Of equal scores all are accepted or none.
    last_of_its_score = np.append(np.diff(places) > 0, True)
    thresholds, fmrs, fnmrs = [], [], []
    for _ in range(n_bootstrap):
        genuine_weights, impostor_weights = draw()
        if genuine_weights.sum() == 0 or impostor_weights.sum() == 0:
            continue  # nobody of a class was drawn
        accepted = np.cumsum(impostor_weights[order])
        over = np.maximum.accumulate(np.where(last_of_its_score, accepted, 0)) > far * accepted[-1] * (
            1 + 1e-12
        )
        # The first group of equal scores that would be one false match too many stays rejected.
        place = int(places[over.argmax()]) if over.any() else len(curve.thresholds)
        thresholds.append(_threshold(curve.thresholds, place - 1))
        fmrs.append(float(impostor_weights @ (impostor >= threshold)) / accepted[-1])
        fnmrs.append(float(genuine_weights @ (genuine < threshold)) / genuine_weights.sum())
    if len(thresholds) < 2:
        raise ValueError(
            f"expected people enough for a bootstrap, got {resampled} of whom hardly any draw has a pair of "
            "each class; add pairs, or give people=None"
        )
    units = [len(genuine), len(impostor)] if people is None else [len(np.unique(people))] * 2
    fmr, fnmr = float((impostor >= threshold).mean()), float((genuine < threshold).mean())
    low, high = np.quantile(thresholds, [0.025, 0.975], method="inverted_cdf").tolist()
    source = f"chosen at FMR {far:g} on {len(impostor)} impostor pairs"
    return OperatingPoint(
        threshold=Threshold(threshold, source) if score is None else score.found(threshold, source),
        interval=(min(low, threshold), max(high, threshold)),
        far=float(far),
        fmr=fmr,
        fmr_interval=_wilson(fmr, float(np.var(fmrs)), len(impostor), units[1]),
        fnmr=fnmr,
        fnmr_interval=_wilson(fnmr, float(np.var(fnmrs)), len(genuine), units[0]),
        eer=equal.rate,
        eer_threshold=equal.threshold,
        n_genuine=len(genuine),
        n_impostor=len(impostor),
        resampled=resampled,
    )


def require_far(far: object, n_impostor: int) -> float:
    """Returns ``far`` if a list of so many impostor pairs supports it.

    See :data:`~captum_face.metrics.calibration.LEAST_FALSE_MATCHES`.

    Raises:
        ValueError: no rate in (0, 1], or too few pairs; the message says how many are needed.
    """
    if isinstance(far, bool) or not isinstance(far, (int, float)) or not 0 < far <= 1:
        raise ValueError(f"expected far as a rate in (0, 1], got {far!r}")
    needed = math.ceil(LEAST_FALSE_MATCHES / far - 1e-9)
    if n_impostor < needed:
        lowest = LEAST_FALSE_MATCHES / n_impostor if n_impostor else 1.0
        instead = f", or ask for a rate of at least {math.ceil(lowest * 1e4) / 1e4:g}" if lowest <= 1 else ""
        raise ValueError(
            f"expected at least {needed} impostor pairs ({LEAST_FALSE_MATCHES} / FMR) for an FMR of {far:g}, "
            f"got {n_impostor}; add pairs of different people{instead}"
        )
    return float(far)


def listed_people(pairs: FacePairs) -> np.ndarray:
    """Whom both images of each pair show, ``(N, 2)`` int64, as far as the genuine pairs of the list tell.

    An image that no genuine pair links to another one is a person of its own.
    """
    people = People(names for names, same in zip(pairs.names, pairs.same.tolist(), strict=True) if same)
    numbers: dict[str, int] = {}
    listed = [[numbers.setdefault(people.of(name), len(numbers)) for name in names] for names in pairs.names]
    return np.array(listed, dtype=np.int64)


def _draws(
    people: Any, same: np.ndarray, generator: np.random.Generator
) -> tuple[Callable[[], tuple[np.ndarray, np.ndarray]], str]:
    """What gives the weights of genuine and impostor pairs in a draw, and what is drawn, in words."""
    counts = int(same.sum()), int((~same).sum())
    if people is None:

        def of_pairs() -> tuple[np.ndarray, np.ndarray]:
            genuine, impostor = (np.bincount(generator.integers(n, size=n), minlength=n) for n in counts)
            return genuine, impostor

        return of_pairs, "pairs"
    who = np.asarray(people)
    if who.shape != (len(same), 2) or not np.issubdtype(who.dtype, np.integer):
        raise ValueError(f"expected people as integers ({len(same)}, 2), got {who.dtype} {who.shape}")
    if (wrong := (who[:, 0] == who[:, 1]) != same).any():
        first = int(wrong.argmax())
        raise ValueError(
            f"expected people that agree with the labels, got people {who[first].tolist()} in the "
            f"{'genuine' if same[first] else 'impostor'} pair at index {first}"
        )
    names, rows = np.unique(who, return_inverse=True)
    rows, n = rows.reshape(who.shape), len(names)

    def of_people() -> tuple[np.ndarray, np.ndarray]:
        drawn = np.bincount(generator.integers(n, size=n), minlength=n)
        return drawn[rows[same, 0]], drawn[rows[~same]].prod(1)

    return of_people, f"{n} people"


def _wilson(rate: float, variance: float, n: int, units: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a rate, with as many independent pairs as give the variance.

    Args:
        rate: Of the list.
        variance: Of the rate by the bootstrap; 0 says nothing where the rate is 0 or 1.
        n: Pairs, the most that it can be.
        units: What was drawn, which stands in for the pairs then.
    """
    spread = rate * (1 - rate)
    effective = min(n, spread / variance if spread > 0 and variance > 0 else units)
    squared = _QUANTILE**2 / effective
    middle = (rate + squared / 2) / (1 + squared)
    half = _QUANTILE / (1 + squared) * math.sqrt(spread / effective + squared / (4 * effective))
    return max(0.0, middle - half), min(1.0, middle + half)
