"""How two embeddings become a similarity score, and each channel's share of it.

A score is a sum over embedding channels, ``score = sum_k c_k``. That is what lets every feature-guided
method weight its channel maps by ``c_k`` (see :mod:`captum_face.engines.channels`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from captum_face._plugins import Registry
from captum_face._validation import require_positive, require_threshold

__all__ = [
    "SCORES",
    "Cosine",
    "Distance",
    "Dot",
    "NegativeSquaredEuclidean",
    "Score",
    "ScoreValue",
    "Threshold",
    "decision_text",
    "decision_word",
    "distance_of_summary",
    "resolve_score",
    "shown",
    "shown_summary",
    "shown_text",
    "threshold_source",
    "unit",
]


def unit(embeddings: Tensor) -> Tensor:
    """Embeddings ``(..., D)`` scaled to length 1, differentiable.

    Raises:
        ValueError: an embedding is all zero, which has no direction.
    """
    size = embeddings.detach().abs().amax(-1, keepdim=True)
    zero = size == 0
    if zero.any():
        raise ValueError(
            f"expected embeddings with a direction, got {int(zero.sum())} all-zero embedding(s) (first at "
            f"index {int(zero.flatten().nonzero()[0])}), whose cosine is not defined; check the "
            "preprocessing and the weights (a wholly black image can give one), or compare and differentiate "
            "raw embeddings: score='dot', embedding='raw'"
        )
    # Scaled first: the squares of very small or large values would leave the range of the dtype.
    return F.normalize(embeddings / size, dim=-1)


@dataclass(frozen=True)
class Distance:
    r"""The distance that a score of at most 0 stands for: :math:`s = -d^p`.

    People give and read such scores and their thresholds as distances: 0.6 and not -0.36. Computations stay
    in units of the score.

    Args:
        power: :math:`p`, above 0.
        name: What figures and texts call it.

    Raises:
        TypeError, ValueError: a power that is no number above 0, or a name that is no text.

    Example::

        >>> distance = Distance(power=2)
        >>> distance.score_of(0.6), distance.of(-0.36)
        (-0.36, 0.6)
    """

    power: float = 1.0
    name: str = "distance"

    def __post_init__(self) -> None:
        require_positive(self.power, "the power of a distance")
        if not isinstance(self.name, str) or not self.name:
            raise TypeError(f"expected the name of a distance as a text, got {self.name!r}")

    def of(self, score: float) -> float:
        """The distance of a score, to 12 digits: more are the rounding of the power."""
        distance: float = max(0.0, -float(score)) ** (1 / self.power)
        return float(f"{distance:.12g}")

    def score_of(self, distance: float) -> float:
        """The score of a distance of at least 0."""
        return -(distance**self.power)

    @property
    def unit(self) -> str:
        """The score in words, for the axes of curves."""
        powers = {1.0: "", 2.0: " squared"}
        of_power = powers.get(self.power, f" to the power {self.power:g}")
        return f"minus the {self.name}{of_power}"


class Score:
    """Base of all scores: one of your own defines :meth:`compare`, and that is all.

    A score that compares embeddings of length 1 also defines :meth:`normalise`. One that is a negative
    distance, or a power of it, says so by :attr:`distance`.

    Example::

        >>> import torch
        >>> class Weighted(Score):
        ...     name = "weighted"
        ...     def compare(self, emb_a, emb_b):
        ...         return torch.linspace(0, 1, emb_a.shape[-1]) * emb_a * emb_b
        >>> Weighted()(torch.ones(1, 3), torch.ones(1, 3))
        tensor([1.5000])
    """

    #: Name shown in figures and written into summaries.
    name: str = "score"
    #: Lowest and highest value the score can take; a threshold beyond them is refused.
    limits: tuple[float, float] = (-float("inf"), float("inf"))
    #: The distance that the score stands for, if it does; then :attr:`limits` end at 0.
    distance: Distance | None = None

    @property
    def normalises(self) -> bool:
        """Whether the length of an embedding does not matter."""
        return type(self).normalise is not Score.normalise

    def normalise(self, embeddings: Tensor) -> Tensor:
        """What is compared of embeddings ``(..., D)``: they themselves, or for many scores :func:`unit`."""
        return embeddings

    def compare(self, emb_a: Tensor, emb_b: Tensor) -> Tensor:
        """Each channel's share of the score, of normalised embeddings.

        Args:
            emb_a: ``(..., D)`` from :meth:`normalise`.
            emb_b: The same for the other image; leading dimensions broadcast.

        Returns:
            ``(..., D)``; the sum over the last dimension is the score.
        """
        raise TypeError(f"{type(self).__name__} must define compare(emb_a, emb_b)")

    def contributions(self, emb_a: Tensor, emb_b: Tensor) -> Tensor:
        """Each channel's share of the score.

        Args:
            emb_a: ``(..., D)`` embeddings as the model gives them.
            emb_b: The same for the other image; leading dimensions broadcast.

        Returns:
            ``(..., D)``; the sum over the last dimension is the score.
        """
        return self.compare(self.normalise(emb_a), self.normalise(emb_b))

    def unrelated(self, emb_a: Tensor, emb_b: Tensor) -> Tensor:
        """The score of embeddings of these lengths that are at right angles, ``(...)``.

        Methods that weight channels by a threshold use it where none is given. 0, or the limit nearest to
        it, unless a score knows better.

        Args:
            emb_a: ``(..., D)`` embeddings as the model gives them.
            emb_b: The same for the other image; leading dimensions broadcast.
        """
        return torch.zeros_like((emb_a * emb_b)[..., 0]).clamp(*self.limits)

    def value(self, score: float) -> ScoreValue:
        """A score of this kind, as a float that knows the distance it stands for."""
        return ScoreValue(score, score=self.name, distance=self.distance)

    def given(self, threshold: float) -> Threshold:
        """A threshold as a caller gives it, in units of the score, with its source.

        Where the score stands for a :attr:`distance`, a number above 0 is a distance. Numbers of at most 0
        are in units of the score.

        Raises:
            TypeError: not a number.
            ValueError: NaN, infinite, one that the score cannot reach, or a :class:`Threshold` that was found
                with another score.

        Example::

            >>> SCORES["euclidean"]().given(0.6), SCORES["euclidean"]().given(-0.36)
            (-0.36, -0.36)
        """
        of = getattr(threshold, "score", None)
        if of is not None and of != self.name:
            raise ValueError(
                f"expected a threshold of the score {self.name!r}, got one of {of!r} ({threshold!r}, "
                f"{threshold_source(threshold)}): the two do not compare; find one with this score, or give "
                "a number"
            )
        number = require_threshold(threshold)
        if of is None and self.distance is not None and number > 0:
            try:
                number = self.distance.score_of(number)
            except OverflowError:
                raise ValueError(f"expected a {self.distance.name} as threshold, got {number:g}") from None
        return self.found(require_threshold(number, self.limits), threshold_source(threshold))

    def found(self, threshold: float, source: str) -> Threshold:
        """A threshold that was found in units of this score, with its source; no other score takes it."""
        return Threshold(threshold, source, self.name, self.distance)

    def __call__(self, emb_a: Tensor, emb_b: Tensor) -> Tensor:
        """The score, ``(...)``: higher means more alike."""
        return self.contributions(emb_a, emb_b).sum(-1)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class Cosine(Score):
    r"""Cosine similarity, :math:`c_k = f_{A,k} f_{B,k}` of the unit embeddings; in [-1, 1].

    Raises:
        ValueError: an embedding is all zero, which has no direction.
    """

    name = "cosine"
    limits = (-1.0, 1.0)

    def normalise(self, embeddings: Tensor) -> Tensor:
        return unit(embeddings)

    def compare(self, emb_a: Tensor, emb_b: Tensor) -> Tensor:
        return emb_a * emb_b


class Dot(Score):
    r"""Inner product of the raw embeddings, :math:`c_k = e_{A,k} e_{B,k}`; unbounded."""

    name = "dot"

    def compare(self, emb_a: Tensor, emb_b: Tensor) -> Tensor:
        return emb_a * emb_b


class NegativeSquaredEuclidean(Score):
    r"""Negative squared distance of the raw embeddings, :math:`c_k = -(e_{A,k} - e_{B,k})^2`; at most 0.

    Thresholds above 0 are distances, and verdicts show distances.
    """

    name = "euclidean"
    limits = (-float("inf"), 0.0)
    distance = Distance(power=2)

    def compare(self, emb_a: Tensor, emb_b: Tensor) -> Tensor:
        return -(emb_a - emb_b).square()

    def unrelated(self, emb_a: Tensor, emb_b: Tensor) -> Tensor:
        return -emb_a.square().sum(-1) - emb_b.square().sum(-1)


def _require_score(name: str, entry: object) -> None:
    if not (isinstance(entry, type) and issubclass(entry, Score)):
        raise TypeError(f"expected a subclass of captum_face.pair.scores.Score, got {entry!r}")
    if entry.name != name:
        raise ValueError(f"expected {entry.__name__}.name to be {name!r}, got {entry.name!r}")
    _require_distance(entry)


def _require_distance(score: Score | type[Score]) -> None:
    """Looks whether a score that stands for a distance is at most 0: numbers above 0 are distances."""
    if score.distance is not None and not isinstance(score.distance, Distance):
        raise TypeError(
            f"expected the distance of the score {score.name!r} as a Distance or None, got {score.distance!r}"
        )
    if score.distance is not None and score.limits[1] != 0:
        raise ValueError(
            "expected limits that end at 0 of a score that stands for a distance, got "
            f"{score.name!r} with the limits {score.limits}; set limits = (-float('inf'), 0.0)"
        )


#: The scores that ``PairSimilarity(score=...)`` and ``--score`` know by name; those of installed plug-ins
#: (entry-point group ``captum_face.scores``) come last.
SCORES: Registry[type[Score]] = Registry("score", "captum_face.scores", _require_score, ("limits",))
for _score in (Cosine, Dot, NegativeSquaredEuclidean):
    SCORES.register(_score.name, _score)


def resolve_score(score: str | Score) -> Score:
    """Turns a name of :data:`SCORES` into its object and lets a :class:`Score` through.

    Raises:
        ValueError: the name is not known; the message says the nearest one.
        ValueError, TypeError: a :attr:`Score.distance` that is none, or of a score above 0.
        TypeError: neither a name nor a :class:`Score`.
    """
    if isinstance(score, Score):
        _require_distance(score)
        return score
    if isinstance(score, type) and issubclass(score, Score):
        raise TypeError(f"expected a score object, got the class {score.__name__}; write {score.__name__}()")
    return SCORES.find(score)()


class ScoreValue(float):
    """A value in units of a score that knows how people read it; everywhere else a float.

    Args:
        value: In units of the score.
        score: The score's name; None if it is not known.
        distance: What it stands for; None for a score that is shown as it is.
    """

    score: str | None
    distance: Distance | None

    def __new__(cls, value: float, score: str | None = None, distance: Distance | None = None) -> ScoreValue:
        known = float.__new__(cls, value)
        known.score, known.distance = score, distance
        return known


class Threshold(ScoreValue):
    """A verification threshold that knows where it came from; everywhere else a float.

    Args:
        value: In units of the score. As long as ``score`` is None it may be a distance: see
            :meth:`Score.given`.
        source: Where it came from, in words, such as ``"EER of 300 listed pairs"``.
        score: The name of the score in whose units it is. Other scores refuse it then.
        distance: As for :class:`ScoreValue`.

    Example::

        >>> threshold = Threshold(0.3, "EER of 300 listed pairs")
        >>> threshold + 0, threshold.source
        (0.3, 'EER of 300 listed pairs')
    """

    source: str

    def __new__(
        cls,
        value: float,
        source: str = "given by the caller",
        score: str | None = None,
        distance: Distance | None = None,
    ) -> Threshold:
        threshold = float.__new__(cls, value)
        threshold.source, threshold.score, threshold.distance = source, score, distance
        return threshold


def shown(value: float, distance: Distance | None = None) -> float:
    """A value of a score as people read it: the distance it stands for, or else itself.

    Args:
        value: In units of the score; a :class:`ScoreValue` knows its distance.
        distance: For other numbers.
    """
    distance = getattr(value, "distance", None) or distance
    return float(value) if distance is None else distance.of(value)


def shown_text(value: float, digits: int = 3) -> str:
    """A score in words.

    Example::

        >>> shown_text(0.431), shown_text(NegativeSquaredEuclidean().value(-0.2314))
        ('score 0.431', 'distance 0.481')
    """
    distance = _distance_of(value)
    return f"{'score' if distance is None else distance.name} {shown(value):.{digits}f}"


def shown_summary(
    score: float | None, threshold: float | None, distance: Distance | None = None
) -> dict[str, Any]:
    """The entry ``"shown"`` of summaries, ready for JSON: score and threshold as they are read.

    Empty for scores that are shown as they are.
    """
    distance = distance or _distance_of(score, threshold)
    if distance is None:
        return {}
    entry: dict[str, Any] = {"quantity": distance.name, "power": distance.power}
    if score is not None:
        entry["score"] = shown(score, distance)
    entry["threshold"] = None if threshold is None else shown(threshold, distance)
    return {"shown": entry}


def distance_of_summary(summary: Mapping[str, Any]) -> Distance | None:
    """The distance that :func:`shown_summary` has written; the class of the score is not needed.

    Raises:
        KeyError, TypeError, ValueError: an entry of something else.
    """
    entry = summary.get("shown")
    return None if entry is None else Distance(entry["power"], entry["quantity"])


def _distance_of(*values: float | None) -> Distance | None:
    found = (getattr(value, "distance", None) for value in values)
    return next((distance for distance in found if distance is not None), None)


def threshold_source(threshold: float | None) -> str:
    """Where a threshold came from, in words.

    Example::

        >>> threshold_source(None), threshold_source(0.3), threshold_source(Threshold(0.3, "my own study"))
        ('none', 'given by the caller', 'my own study')
    """
    if threshold is None:
        return "none"
    return threshold.source if isinstance(threshold, Threshold) else Threshold(threshold).source


def decision_word(
    score: float, threshold: float | None, accepted: str = "accepted", rejected: str = "rejected"
) -> str | None:
    """One of two words for the decision; None without a threshold.

    Example::

        >>> decision_word(0.431, 0.15), decision_word(0.431, 0.5), decision_word(0.431, None)
        ('accepted', 'rejected', None)
    """
    if threshold is None:
        return None
    return accepted if score >= threshold else rejected


def decision_text(score: float, threshold: float | None) -> str:
    """The decision in words; without a threshold nothing is decided.

    A score that stands for a distance, or is compared with a threshold that does, is shown as one.

    Example::

        >>> decision_text(0.431, 0.15)
        'score 0.431 ≥ threshold 0.150: accepted as the same person'
        >>> decision_text(0.431, None)
        'score 0.431, no threshold given'
        >>> euclidean = NegativeSquaredEuclidean()
        >>> decision_text(euclidean.value(-0.2314), euclidean.given(0.6))
        'distance 0.481 ≤ threshold 0.600: accepted as the same person'
    """
    distance = _distance_of(score, threshold)
    quantity, at_least, below = ("score", "≥", "<") if distance is None else (distance.name, "≤", ">")
    value = shown(score, distance)
    if threshold is None:
        return f"{quantity} {value:.3f}, no threshold given"
    limit = shown(threshold, distance)
    digits = next((d for d in range(3, 9) if value == limit or f"{value:.{d}f}" != f"{limit:.{d}f}"), 9)
    accepted = score >= threshold
    compared = f"{quantity} {value:.{digits}f} {at_least if accepted else below} threshold {limit:.{digits}f}"
    return f"{compared}: {'accepted as the same person' if accepted else 'rejected as different people'}"
