"""Which other person stands in for hidden pixels of a pair."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from captum_face.pair import PairSimilarity

__all__ = ["People", "choose_stranger"]


class People:
    """Which images show one person, as far as the genuine pairs of a list tell.

    Args:
        genuine: The names of the images of each genuine pair.
    """

    def __init__(self, genuine: Iterable[tuple[str, str]]) -> None:
        self._parent: dict[str, str] = {}
        for name_a, name_b in genuine:
            self._parent[self._root(name_a)] = self._root(name_b)

    def _root(self, name: str) -> str:
        while name in self._parent and self._parent[name] != name:
            name = self._parent[name]
        return name

    def same(self, name_a: str, name_b: str) -> bool:
        """Whether two images are linked by genuine pairs."""
        return self._root(name_a) == self._root(name_b)


def choose_stranger(
    pair: PairSimilarity,
    names: tuple[str, str],
    embeddings: Mapping[str, Tensor],
    people: People,
    *,
    threshold: float,
    seed: int,
) -> str:
    """An image of another person than both of a pair: not linked to them, and rejected by the model.

    Args:
        pair: The model.
        names: The pair's images.
        embeddings: ``(D,)`` of every image that may be chosen, and of the two.
        people: Who is who.
        threshold: Below this score the model calls two images different people.
        seed: Of the choice among those that qualify.

    Raises:
        ValueError: nobody qualifies.
    """
    pool = list(embeddings)
    both = torch.stack([embeddings[name] for name in names])
    for index in torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed)).tolist():
        candidate = pool[index]
        if candidate in names or any(people.same(candidate, name) for name in names):
            continue
        with torch.no_grad():
            scores = pair.contributions(both, embeddings[candidate][None]).sum(-1).tolist()
        if max(scores) < threshold:
            return candidate
    raise ValueError(
        f"expected an image of another person than {' and '.join(names)} among the {len(pool)} images of "
        "their size in the pair list, scored below the threshold with both; add pairs of other people"
    )
