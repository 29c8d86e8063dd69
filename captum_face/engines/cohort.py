"""Cohorts: faces of other people, whom methods and metrics compare a pair with."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from captum_face._validation import require_images
from captum_face.data.alignment import SMALLEST
from captum_face.data.faces import image_files, read_faces, render_faces
from captum_face.maps.templates import TEMPLATES, Template
from captum_face.pair.scores import Distance, shown
from captum_face.pair.similarity import PairSimilarity
from captum_face.photos.crops import realign
from captum_face.photos.landmarks import check_crops

__all__ = [
    "FEWEST",
    "Cohort",
    "CohortWarning",
    "People",
    "SimilarMemberWarning",
    "choose_cohort",
    "cycle_members",
    "draw_cohort",
    "require_cohort",
    "warn_of_similar",
    "warn_unaligned",
]

#: A smaller cohort says more about its members than about people in general.
FEWEST = 4
#: Rendered people who stand in where no cohort is given.
_N_RENDERED = 8


class CohortWarning(UserWarning):
    """A cohort from which a map may mislead."""


class SimilarMemberWarning(CohortWarning):
    """A member of a cohort who looks like a person of the pair."""


class Cohort(NamedTuple):
    """Faces of other people, and where they came from; made by :func:`require_cohort`."""

    faces: Tensor  #: ``(M, C, H, W)``
    names: tuple[str, ...]  #: M of them, file names below the folder or numbers
    origin: str  #: in words, such as ``"20 images of faces/"``
    rendered: bool  #: whether they are rendered, because none were given


def _how_to_align(template: Template | None, like: Tensor) -> str:
    if template is None or template.name not in TEMPLATES:
        return "; align and resize them as the images are"
    height, width = like.shape[-2:]
    size = "" if (height, width) == TEMPLATES[template.name].size else f" --size {width}x{height}"
    return (
        f"; captum-face align FOLDER --template {template.name}{size} --output CROPS cuts them out of photos "
        "and of crops of another alignment"
    )


def require_cohort(cohort: object, images: tuple[Tensor, Tensor], template: Template | None = None) -> Cohort:
    """Aligned faces of other people, like the images in size, channels, dtype and device.

    Args:
        cohort: Images ``(M, C, H, W)``, a folder of them, or None for rendered people.
        images: Of both sides.
        template: To which rendered people are aligned; None for ArcFace's.

    Raises:
        TypeError, ValueError, OSError: none of these, or images of another size.
        ImportError: rendered people for another template than ArcFace's, without the extra ``photos``.

    Warns:
        CohortWarning: fewer than :data:`FEWEST`.
    """
    like = images[0]
    if cohort is None:
        faces = _rendered(like, template)
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
            f"{tuple(faces.shape)}{_how_to_align(template, like)}"
        )
    if len(faces) < FEWEST:
        warnings.warn(
            f"a cohort of {len(faces)} is small: the map shows what tells the image from these very people; "
            f"give {FEWEST} or more, best 8",
            CohortWarning,
            stacklevel=7,
        )
    return Cohort(faces.detach().to(like), names, origin, False)


def _rendered(like: Tensor, template: Template | None) -> Tensor:
    """Rendered people in the images' size and channels, aligned as the images are."""
    faces = render_faces(_N_RENDERED)
    arcface = TEMPLATES["arcface"]
    if template is not None and template.name != arcface.name:
        faces = realign(faces, arcface, template.resized((like.shape[-2], like.shape[-1])))
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


def warn_of_similar(
    names: Sequence[str], scores: Tensor, limits: Tensor | float, distance: Distance | None = None
) -> str | None:
    """Warns of members of a cohort who look like a person of the pairs.

    Args:
        names: M of them.
        scores: ``(M, N)``: of each member and each image of the pairs.
        limits: ``(N,)`` or one for all: members who score as high are not told from that person.
        distance: What the scores stand for; None shows them as they are.

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
    known = (
        f"the threshold is {shown(limits, distance):.3f}"
        if isinstance(limits, float)
        else "no threshold is given"
    )
    kind = "scores" if distance is None else f"{distance.name}s"
    who = ", ".join(f"{name} ({shown(score, distance):.3f})" for score, name in found)
    warnings.warn(
        f"{len(found)} of {len(names)} members of the cohort look like a person of the pairs to the model "
        f"({known}; their {kind}: {who}): what tells this person from others is missing in the map then; "
        "leave them out",
        SimilarMemberWarning,
        stacklevel=7,
    )
    return who


def warn_unaligned(images: tuple[Tensor, Tensor], alignment: str | Template | None) -> None:
    """Warns of images that are no faces in an alignment: see :func:`~captum_face.photos.check_crops`."""
    if min(images[0].shape[-2:]) < SMALLEST:
        return
    for side, of_side in zip("ab", images, strict=True):
        failed = [
            check.message(f"image_{side}[{i}]")
            for i, check in enumerate(check_crops(of_side, alignment))
            if not check.passed
        ]
        if failed:
            warnings.warn(
                f"{'; '.join(failed)}. Morphs with other people are ghosts and no faces then: align all "
                "images alike, or say PairSimilarity(alignment=None) if the model expects another alignment",
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
        seed: Of the choice among those that qualify. It does not depend on the order of the images, and an
            image more or less changes it only where that image is chosen.
        without: Images whose people are not chosen either, whatever the model says.
    """
    own = torch.stack([embeddings[name] for name in names])
    chosen: list[str] = []
    for candidate in _shuffled([*embeddings], seed):
        if any(people.same(candidate, name) for name in (*names, *without, *chosen)):
            continue
        with torch.no_grad():
            scores = pair.contributions(own, embeddings[candidate][None]).sum(-1)
        if float(scores.max()) < threshold:
            chosen.append(candidate)
        if len(chosen) == n:
            break
    return chosen


def _shuffled(names: Sequence[str], seed: int) -> Iterator[str]:
    """Names in a random order, in which one name more or less leaves the others as they are."""
    draws = _numbers(tuple(names)) + np.uint64(seed)
    # The finaliser of SplitMix64: each seed gives every name another random number.
    draws *= np.uint64(0x9E3779B97F4A7C15)
    draws = (draws ^ (draws >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    draws = (draws ^ (draws >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    draws ^= draws >> np.uint64(31)
    return (names[place] for place in np.argsort(draws))


@lru_cache(maxsize=4)
def _numbers(names: tuple[str, ...]) -> np.ndarray:
    return np.array(
        [int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") for name in names], np.uint64
    )
