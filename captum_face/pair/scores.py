"""How two embeddings become a similarity score, and each channel's share of it.

A score is a sum over embedding channels, ``score = sum_k c_k``. That is what lets every feature-guided
method weight its channel maps by ``c_k`` (see :mod:`captum_face.engines.channels`).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from captum_face._plugins import Registry

__all__ = [
    "SCORES",
    "Cosine",
    "Dot",
    "NegativeSquaredEuclidean",
    "Score",
    "Threshold",
    "decision_text",
    "decision_word",
    "resolve_score",
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


class Score:
    """Base of all scores: one of your own defines :meth:`compare`, and that is all.

    A score that compares embeddings of length 1 also defines :meth:`normalise`.

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
    r"""Negative squared distance of the raw embeddings, :math:`c_k = -(e_{A,k} - e_{B,k})^2`; at most 0."""

    name = "euclidean"
    limits = (-float("inf"), 0.0)

    def compare(self, emb_a: Tensor, emb_b: Tensor) -> Tensor:
        return -(emb_a - emb_b).square()

    def unrelated(self, emb_a: Tensor, emb_b: Tensor) -> Tensor:
        return -emb_a.square().sum(-1) - emb_b.square().sum(-1)


def _require_score(name: str, entry: object) -> None:
    if not (isinstance(entry, type) and issubclass(entry, Score)):
        raise TypeError(f"expected a subclass of captum_face.pair.scores.Score, got {entry!r}")
    if entry.name != name:
        raise ValueError(f"expected {entry.__name__}.name to be {name!r}, got {entry.name!r}")


#: The scores that ``PairSimilarity(score=...)`` and ``--score`` know by name; those of installed plug-ins
#: (entry-point group ``captum_face.scores``) come last.
SCORES: Registry[type[Score]] = Registry("score", "captum_face.scores", _require_score, ("limits",))
for _score in (Cosine, Dot, NegativeSquaredEuclidean):
    SCORES.register(_score.name, _score)


def resolve_score(score: str | Score) -> Score:
    """Turns a name of :data:`SCORES` into its object and lets a :class:`Score` through.

    Raises:
        ValueError: the name is not known; the message says the nearest one.
        TypeError: neither a name nor a :class:`Score`.
    """
    if isinstance(score, Score):
        return score
    if isinstance(score, type) and issubclass(score, Score):
        raise TypeError(f"expected a score object, got the class {score.__name__}; write {score.__name__}()")
    return SCORES.find(score)()


class Threshold(float):
    """A verification threshold that knows where it came from; everywhere else a float.

    Args:
        value: In units of the score.
        source: Where it came from, in words, such as ``"EER of 300 listed pairs"``.

    Example::

        >>> threshold = Threshold(0.3, "EER of 300 listed pairs")
        >>> threshold + 0, threshold.source
        (0.3, 'EER of 300 listed pairs')
    """

    source: str

    def __new__(cls, value: float, source: str = "given by the caller") -> Threshold:
        threshold = super().__new__(cls, value)
        threshold.source = source
        return threshold


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

    Example::

        >>> decision_text(0.431, 0.15)
        'score 0.431 ≥ threshold 0.150: accepted as the same person'
        >>> decision_text(0.431, None)
        'score 0.431, no threshold given'
    """
    if threshold is None:
        return f"score {score:.3f}, no threshold given"
    digits = next(
        (d for d in range(3, 9) if score == threshold or f"{score:.{d}f}" != f"{threshold:.{d}f}"), 9
    )
    if score >= threshold:
        return f"score {score:.{digits}f} ≥ threshold {threshold:.{digits}f}: accepted as the same person"
    return f"score {score:.{digits}f} < threshold {threshold:.{digits}f}: rejected as different people"
