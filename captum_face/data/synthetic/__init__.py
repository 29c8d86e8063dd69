"""Synthetic faces with known ground truth: which parts of a face differ, and where.

A face is drawn from two separate sets of parameters: its **identity**, one vector for each of
:data:`PARTS`, and the **nuisance** of one photo (light, pose, expression, background, sensor noise).
So the same person can be photographed twice, and a part can be exchanged between people while all
else stays as it was. Faces are aligned as the 112x112 crops of ArcFace are: at rest, the landmarks
of the average face lie on the five-point template.

Everything is a function of its seed: generators are local and PyTorch's global one is never used.

>>> from captum_face.data import synthetic
>>> two = synthetic.pair(seed=0, changed=("mouth",))
>>> two.image_a.shape, two.mask_b.shape
(torch.Size([1, 3, 112, 112]), torch.Size([1, 112, 112]))
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple, overload

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from captum_face._validation import require_choice
from captum_face.data.synthetic._canvas import SIZE
from captum_face.data.synthetic._drawing import draw, five_points
from captum_face.data.synthetic._parameters import (
    PARTS,
    Identities,
    Nuisance,
    difference,
    sample_identities,
    sample_nuisance,
)

__all__ = [
    "CHANGE_THRESHOLD",
    "PARTS",
    "Identities",
    "Nuisance",
    "SyntheticPair",
    "VerificationPairs",
    "landmarks",
    "pair",
    "pairs",
    "render",
    "sample_identities",
    "sample_nuisance",
]

CHANGE_THRESHOLD = 0.02
"""A pixel counts as changed when a colour channel differs by more than this (5 of 255 levels)."""

_CHUNK = 8  # faces drawn at once: their intermediate results still fit into the processor's cache


@overload
def render(identities: Identities, nuisance: Nuisance, *, return_parts: Literal[False] = False) -> Tensor: ...


@overload
def render(
    identities: Identities, nuisance: Nuisance, *, return_parts: Literal[True]
) -> tuple[Tensor, Tensor]: ...


def render(
    identities: Identities, nuisance: Nuisance, *, return_parts: bool = False
) -> Tensor | tuple[Tensor, Tensor]:
    """Draws one photo of each identity.

    Args:
        identities: N people, or one to be photographed N times.
        nuisance: N photos, or one whose circumstances all N people share.
        return_parts: Also return where each part is.

    Returns:
        Images ``(N, 3, 112, 112)``, RGB in [0, 1], float32. With ``return_parts`` also boolean masks
        ``(N, len(PARTS), 112, 112)`` in the order of :data:`PARTS`. They are disjoint: a pixel
        belongs to the part drawn last over it, and to none in the background. ``"skin"`` is what
        remains of face and neck, and ``"jaw"`` the rim of the lower face. A part can act beyond its
        mask (a nose casts a shadow); use :func:`pair` to learn where pixels change.

    Raises:
        ValueError: the numbers of identities and photos differ and neither is 1.
    """
    n = max(len(identities), len(nuisance))
    if {len(identities), len(nuisance)} - {1, n}:
        raise ValueError(
            f"expected as many identities as photos, or one of either, got {len(identities)} "
            f"identities and {len(nuisance)} photos: index or repeat() the fewer"
        )
    people = identities.repeat(n) if len(identities) < n else identities
    photos = nuisance.repeat(n) if len(nuisance) < n else nuisance
    images = torch.empty(n, 3, SIZE, SIZE, dtype=torch.float32)
    labels = torch.empty(n, SIZE, SIZE, dtype=torch.int8)
    with torch.no_grad():
        for start in range(0, n, _CHUNK):
            rows = slice(start, start + _CHUNK)
            images[rows], labels[rows] = draw(people[rows], photos[rows])
        _add_noise(images, photos.vectors["noise"])
    if not return_parts:
        return images
    return images, labels[:, None] == torch.arange(len(PARTS), dtype=torch.int8)[:, None, None]


def _add_noise(images: Tensor, noise: Tensor) -> None:
    for image, (amount, seed) in zip(images, noise.tolist(), strict=True):
        if amount > 0:
            generator = torch.Generator().manual_seed(int(seed))
            image += amount * torch.randn(image.shape, generator=generator, dtype=torch.float32)
            image.clamp_(0, 1)


def landmarks(identities: Identities, nuisance: Nuisance) -> Tensor:
    """Returns where eyes, nose tip and mouth corners are, ``(N, 5, 2)`` as (x, y) in px.

    In the order of the ArcFace template: left eye, right eye (as seen in the picture), nose tip,
    left and right mouth corner. At rest the average face lies on the template within 0.3 px, and
    single faces within 2.6 px, as people differ after alignment.
    """
    return five_points(identities, nuisance)


@dataclass(frozen=True, eq=False)  # tensors have no single answer to ==
class SyntheticPair:
    """Two photos and what differs between the people in them.

    Args:
        image_a: Probe ``(1, 3, 112, 112)`` in [0, 1].
        image_b: The other photo, likewise.
        mask_a: ``(1, 112, 112)`` bool: where ``image_a`` would change if the exchange was made in it.
        mask_b: ``(1, 112, 112)`` bool: where ``image_b`` differs from the same photo without the
            exchange.
        changed: The exchanged parts.
        same: False if the photos are of two people altogether.
    """

    image_a: Tensor
    image_b: Tensor
    mask_a: Tensor
    mask_b: Tensor
    changed: tuple[str, ...]
    same: bool


def pair(
    seed: int = 0, *, same: bool = True, changed: Iterable[str] = (), strength: float = 0.5
) -> SyntheticPair:
    """Two photos that differ in known parts, with the masks of where they do.

    The masks compare drawings of the same circumstances with and without the exchange, before
    noise; a pixel belongs to them if a channel differs by more than :data:`CHANGE_THRESHOLD`, or if it
    lies in a gap of up to 4 pixels between such pixels: two brows cross in places where their colours
    happen to agree. What differs by light, pose or expression alone is thus never in a mask.

    Args:
        seed: Decides people and circumstances. Pairs of one seed show the same person A and the same
            circumstances, whatever is changed.
        same: False for two different people: every part is then another person's and the masks say
            where that shows.
        changed: Parts that come from another identity in ``image_b``. Of twelve other people the one is
            taken whose parts differ most, so that the exchange can be seen.
        strength: How much light, pose, expression, background and noise vary (0 to 1).

    Raises:
        ValueError: a part is unknown, or ``same=False`` comes together with ``changed``.
    """
    names = tuple(require_choice(part, PARTS, "face part") for part in _listed(changed))
    if names and not same:
        raise ValueError(
            "expected changed=() with same=False, since two people differ in every part, got "
            f"changed={names}: leave same=True to exchange single parts"
        )
    people, photos = sample_identities(13, seed), sample_nuisance(2, seed, strength)
    person, cohort = people[0], people[1:]
    exchanged = names if same else PARTS
    other = person.swap(cohort[int(difference(person, cohort, exchanged).argmax())], exchanged)

    clean = photos.without_noise()
    before, after = render(person, clean), render(other, clean)
    masks = _closed(((before - after).abs() > CHANGE_THRESHOLD).any(dim=1))
    return SyntheticPair(
        image_a=render(person, photos[0]),
        image_b=render(other, photos[1]),
        mask_a=masks[:1],
        mask_b=masks[1:],
        changed=names,
        same=same,
    )


def _closed(masks: Tensor, radius: int = 2) -> Tensor:
    """Masks without holes and gaps of up to twice ``radius`` pixels (a morphological closing)."""
    grown = max_pool2d(masks[:, None].float(), 2 * radius + 1, stride=1, padding=radius)
    return -max_pool2d(-grown, 2 * radius + 1, stride=1, padding=radius)[:, 0] > 0.5


def _listed(parts: Iterable[str]) -> Iterable[str]:
    return (parts,) if isinstance(parts, str) else parts


class VerificationPairs(NamedTuple):
    """Pairs for a verification experiment; ``same`` (N,) is True for genuine pairs."""

    image_a: Tensor
    image_b: Tensor
    same: Tensor


def pairs(n: int, seed: int = 0, *, strength: float = 1.0) -> VerificationPairs:
    """Draws ``n`` pairs, genuine and impostor ones by turns, no person twice among the genuine.

    Args:
        n: Number of pairs.
        seed: Decides people and circumstances.
        strength: As in :func:`sample_nuisance`.

    Returns:
        Images ``(n, 3, 112, 112)`` of both sides, and ``same`` ``(n,)`` bool.
    """
    people = sample_identities(2 * n, seed)
    photos = sample_nuisance(2 * n, seed, strength)
    same = torch.arange(n) % 2 == 0
    partner = torch.where(same, torch.arange(n), torch.arange(n, 2 * n))
    return VerificationPairs(render(people[:n], photos[:n]), render(people[partner], photos[n:]), same)
