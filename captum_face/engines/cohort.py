"""Which other people stand in for hidden pixels of a pair, and which a method may compare with."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from captum_face.pair.similarity import PairSimilarity

__all__ = ["People", "choose_strangers"]


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


def choose_strangers(
    pair: PairSimilarity,
    names: Sequence[str],
    embeddings: Mapping[str, Tensor],
    people: People,
    *,
    n: int,
    threshold: float,
    seed: int,
    without: Collection[str] = (),
) -> list[str]:
    """Images of other people than those of some images: not linked to them, and rejected by the model.

    Args:
        pair: The model.
        names: The images that must show somebody else.
        embeddings: ``(D,)`` of every image that may be chosen, and of ``names``.
        people: Who is who.
        n: How many; each of a person of its own, and fewer where there are fewer.
        threshold: Below this score the model calls two images different people.
        seed: Of the choice among those that qualify.
        without: Images whose people are not chosen either, whatever the model says.
    """
    pool = list(embeddings)
    own = torch.stack([embeddings[name] for name in names])
    chosen: list[str] = []
    for index in torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed)).tolist():
        candidate = pool[index]
        if any(people.same(candidate, name) for name in (*names, *without, *chosen)):
            continue
        with torch.no_grad():
            scores = pair.contributions(own, embeddings[candidate][None]).sum(-1)
        if float(scores.max()) < threshold:
            chosen.append(candidate)
        if len(chosen) == n:
            break
    return chosen
