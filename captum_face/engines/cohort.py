"""Cohorts: faces of other people, whom methods and metrics compare a pair with."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from captum_face._validation import require_images
from captum_face.data.faces import read_faces, render_faces
from captum_face.maps.signed import smooth
from captum_face.pair.similarity import PairSimilarity

__all__ = [
    "FEWEST",
    "CohortWarning",
    "People",
    "SimilarMemberWarning",
    "alignment",
    "choose_cohort",
    "cycle_members",
    "draw_cohort",
    "require_cohort",
    "warn_of_similar",
    "warn_unaligned",
]

#: A smaller cohort says more about its members than about people in general.
FEWEST = 4
#: Edges of aligned faces correlate with those of the mean face by more than this, see :func:`alignment`.
_UNALIGNED = 0.15
#: The shorter side of images in which features can be seen.
_FEWEST_PIXELS = 48
#: Rendered people who stand in where no cohort is given.
_N_RENDERED = 8


class CohortWarning(UserWarning):
    """A cohort from which a map may mislead."""


class SimilarMemberWarning(CohortWarning):
    """A member of a cohort who looks like a person of the pair."""


def require_cohort(cohort: object, images: tuple[Tensor, Tensor]) -> Tensor:
    """Aligned faces of other people as a tensor ``(M, C, H, W)`` like the images.

    Args:
        cohort: Images ``(M, C, H, W)``, a folder of them, or None for rendered people.
        images: Of both sides.

    Raises:
        TypeError, ValueError, OSError: none of these, or images of another size.

    Warns:
        CohortWarning: fewer than :data:`FEWEST`.
    """
    like = images[0]
    if cohort is None:
        return _rendered(like)
    if isinstance(cohort, (str, Path)):
        cohort, _, _ = read_faces(cohort)
    faces = require_images(cohort, "cohort")
    if faces.shape[1:] != like.shape[1:]:
        raise ValueError(
            f"expected cohort (M, {', '.join(map(str, like.shape[1:]))}), of the size of the images, got "
            f"{tuple(faces.shape)}"
        )
    if len(faces) < FEWEST:
        warnings.warn(
            f"a cohort of {len(faces)} is small: the map shows what tells the image from these very people; "
            f"give {FEWEST} or more, best 8",
            CohortWarning,
            stacklevel=7,
        )
    return faces.detach().to(like)


def _rendered(like: Tensor) -> Tensor:
    """Rendered people in the images' size and channels, aligned as crops for ArcFace are."""
    faces = render_faces(_N_RENDERED)
    if like.shape[1] != faces.shape[1]:
        faces = faces.mean(1, keepdim=True).expand(-1, like.shape[1], -1, -1)
    return torch.nn.functional.interpolate(
        faces, like.shape[-2:], mode="bilinear", align_corners=False, antialias=True
    ).to(like)


def draw_cohort(cohort: Tensor, n: int, generator: torch.Generator | None) -> Tensor:
    """At most ``n`` of its members, in random order."""
    device = generator.device if generator is not None else None
    order = torch.randperm(len(cohort), generator=generator, device=device).to(cohort.device)
    return cohort[order[:n]]


def cycle_members(cohort: Tensor, n: int) -> Tensor:
    """The member at each of ``n`` points: each as often as any other, and evenly over all points."""
    return torch.arange(n, device=cohort.device) % len(cohort)


def warn_of_similar(scores: Tensor, threshold: float) -> None:
    """Warns of members of a cohort who look like a person of the pairs.

    Args:
        scores: ``(M,)``: the highest score of each member.
        threshold: Members who score as high are not told from that person.
    """
    similar = int((scores >= threshold).sum())
    if similar:
        warnings.warn(
            f"{similar} of {len(scores)} members of the cohort look like a person of the pairs to the model "
            f"(the nearest scores {float(scores.max()):.3f}, the threshold is {threshold:.3f}): what tells "
            "this person from others is missing in the map then; leave them out",
            SimilarMemberWarning,
            stacklevel=7,
        )


def alignment(images: Tensor, faces: Tensor) -> Tensor:
    """How well faces lie on the mean of others: the correlation of their edges at the same place.

    Brightness gradients after a slight blur, weighted by a Gaussian around the middle of the face. Against
    the mean of eight others 19 of 20 crops in ArcFace's alignment have 0.16 or more. Moved down by 16 of 112
    pixels or upside down nine of ten have less than 0.15, moved sideways half of them
    (``docs/studies/morphs.py --study alignment``).

    Args:
        images: ``(N, C, H, W)``.
        faces: ``(M, C, H, W)``, which lie as they should.

    Returns:
        ``(N,)`` in [-1, 1].
    """
    height, width = images.shape[-2:]
    rows, columns = ((torch.arange(side, device=images.device) + 0.5) / side for side in (height, width))
    # The nose, between eyes and mouth, and a width that holds these.
    window = (-0.5 * (((rows[:, None] - 0.54) ** 2 + (columns - 0.5) ** 2) / 0.27**2)).exp()

    def edges(some: Tensor) -> Tensor:
        grey = smooth(some.mean(1), 2 / 112 * min(height, width))
        return torch.stack(torch.gradient(grey, dim=(1, 2)), 1) * window.sqrt()

    own, mean = edges(images).flatten(1), edges(faces.mean(0, keepdim=True)).flatten(1)
    return torch.nn.functional.cosine_similarity(own, mean)


def warn_unaligned(images: tuple[Tensor, Tensor], faces: Tensor) -> None:
    """Warns of images that do not lie on the mean face of a cohort."""
    if min(faces.shape[-2:]) < _FEWEST_PIXELS:
        return
    for side, image in zip("ab", images, strict=True):
        found = alignment(image, faces)
        worst = int(found.argmin())
        if found[worst] < _UNALIGNED:
            warnings.warn(
                f"image_{side}[{worst}] does not lie on the cohort's mean face: the correlation of their "
                f"edges is {float(found[worst]):.2f}, that of aligned faces above {_UNALIGNED}. Morphs "
                "between them are ghosts and no faces; align all images alike",
                CohortWarning,
                stacklevel=7,
            )


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


def choose_cohort(
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
