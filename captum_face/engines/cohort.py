"""Cohorts: faces of other people, whom methods and metrics compare a pair with."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from captum_face._validation import require_images
from captum_face.data.faces import image_files, read_faces, render_faces
from captum_face.maps.signed import smooth
from captum_face.pair.similarity import PairSimilarity

__all__ = [
    "FEWEST",
    "Cohort",
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


class Cohort(NamedTuple):
    """Faces of other people, and where they came from; made by :func:`require_cohort`."""

    faces: Tensor  #: ``(M, C, H, W)``
    names: tuple[str, ...]  #: M of them: file names below the folder, or numbers
    origin: str  #: in words, such as ``"20 images of faces/"``
    rendered: bool  #: whether they are rendered, because none were given


def require_cohort(cohort: object, images: tuple[Tensor, Tensor]) -> Cohort:
    """Aligned faces of other people, like the images in size, channels, dtype and device.

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
        faces = _rendered(like)
        return Cohort(faces, tuple(map(str, range(len(faces)))), f"{len(faces)} rendered faces", True)
    if isinstance(cohort, (str, Path)):
        folder = cohort
        cohort, _, left_out = read_faces(folder)
        names = tuple(name for name in image_files(folder) if name not in left_out)
        origin = f"{len(names)} images of {folder}"
        if left_out:
            origin += f", {len(left_out)} left out ({', '.join(left_out)})"
        faces = require_images(cohort, f"cohort {folder}")
    else:
        faces = require_images(cohort, "cohort")
        names, origin = tuple(map(str, range(len(faces)))), f"{len(faces)} images"
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
    return Cohort(faces.detach().to(like), names, origin, False)


def _rendered(like: Tensor) -> Tensor:
    """Rendered people in the images' size and channels, aligned as crops for ArcFace are."""
    faces = render_faces(_N_RENDERED)
    if like.shape[1] != faces.shape[1]:
        faces = faces.mean(1, keepdim=True).expand(-1, like.shape[1], -1, -1)
    return torch.nn.functional.interpolate(
        faces, like.shape[-2:], mode="bilinear", align_corners=False, antialias=True
    ).to(like)


def draw_cohort(cohort: Cohort, n: int, generator: torch.Generator | None) -> Cohort:
    """At most ``n`` of its members, in random order."""
    device = generator.device if generator is not None else None
    order = torch.randperm(len(cohort.faces), generator=generator, device=device)[:n].tolist()
    return cohort._replace(
        faces=cohort.faces[order],
        names=tuple(cohort.names[i] for i in order),
        origin=cohort.origin if len(order) == len(cohort.faces) else f"{len(order)} of {cohort.origin}",
    )


def cycle_members(cohort: Tensor, n: int) -> Tensor:
    """The member at each of ``n`` points: each as often as any other, and evenly over all points."""
    return torch.arange(n, device=cohort.device) % len(cohort)


def warn_of_similar(names: Sequence[str], scores: Tensor, limits: Tensor | float) -> str | None:
    """Warns of members of a cohort who look like a person of the pairs.

    Args:
        names: M of them.
        scores: ``(M, N)``: of each member and each image of the pairs.
        limits: ``(N,)`` or one for all: members who score as high are not told from that person.

    Returns:
        Who they are, with their highest scores; None if there is nobody.
    """
    similar = (scores >= limits).any(1).tolist()
    highest = scores.amax(1).tolist()
    found = sorted(
        ((score, name) for name, score, close in zip(names, highest, similar, strict=True) if close),
        reverse=True,
    )
    if not found:
        return None
    known = f"the threshold is {limits:.3f}" if isinstance(limits, float) else "no threshold is given"
    who = ", ".join(f"{name} ({score:.3f})" for score, name in found)
    warnings.warn(
        f"{len(found)} of {len(names)} members of the cohort look like a person of the pairs to the model "
        f"({known}; their scores: {who}): what tells this person from others is missing in the map then; "
        "leave them out",
        SimilarMemberWarning,
        stacklevel=7,
    )
    return who


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

    def of(self, name: str) -> str:
        """One name for all images that are linked to this one."""
        return self._root(name)

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
