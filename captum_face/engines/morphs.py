"""Morphs between aligned faces, and what methods that use them share: strangers, and how maps are joined.

A morph stays a face on all of its way if both ends are faces of one alignment. Two kinds of ends ask two
questions. From *strangers* to the image: why is the score above theirs? From the *partner* to the image: why
is it below that of a perfect match?
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from captum_face._validation import require_images, require_positive, require_positive_int, require_scores
from captum_face.maps.signed import smooth
from captum_face.pair.passes import BatchSize
from captum_face.pair.similarity import PairSimilarity

__all__ = [
    "FEWEST_STRANGERS",
    "Ends",
    "MorphComponents",
    "Morphs",
    "alignment",
    "drawn_strangers",
    "morphs",
    "require_strangers",
    "turns",
]

#: Standard deviations of the Gaussians that spread the maps of strangers and of the partner, as shares of the
#: shorter side.
SMOOTHING = (5 / 112, 8 / 112)
#: Random fields that give regions their time, each for a morph and its reverse.
_N_FIELDS = 2
#: Fewer people than these say more about themselves than about strangers.
FEWEST_STRANGERS = 4
#: Edges of aligned faces correlate with those of the mean face by more than this, see :func:`alignment`.
_UNALIGNED = 0.15
#: The shorter side of images in which features can be seen.
_FEWEST_PIXELS = 48
#: Rendered people who stand in where no strangers are given.
_N_RENDERED = 8


class Morphs(NamedTuple):
    """Points on ways from other faces to an image; made by :func:`morphs`."""

    shares: Tensor  #: ``(n, H, W)`` in [0, 1]: how much of the image each point shows
    weights: Tensor  #: ``(n, H, W)``: how much of a pixel's change a point stands for; they add up to 1


class MorphComponents(NamedTuple):
    """Both questions' maps; made by ``components()`` of the methods that morph.

    For each of them a tuple of two, for image A and image B.
    """

    strangers: tuple[Tensor, Tensor]  #: ``(N, C, H, W)``: why the score is above that of strangers
    partner: tuple[Tensor, Tensor]  #: ``(N, C, H, W)``: why it is below that of a perfect match
    stranger_scores: tuple[Tensor, Tensor]  #: ``(N,)``: the strangers' mean score against the partner
    perfect_scores: tuple[Tensor, Tensor]  #: ``(N,)``: the partner's score against itself
    scores: Tensor  #: ``(N,)``: of the pairs

    def positions(self, threshold: float, position: float | None = None) -> tuple[Tensor, Tensor]:
        r"""How much of each map is about the partner (1) rather than strangers (0), ``(N,)`` for each image.

        With :math:`p_s` and :math:`p_\theta` for where score and threshold lie between strangers (0) and a
        perfect match (1), the odds of the strangers' question are those of the score over those of the
        threshold,

        .. math:: \frac{1 - \lambda}{\lambda} = \frac{p_s}{1 - p_s} \bigg/ \frac{p_\theta}{1 - p_\theta} .

        So at the threshold both count alike, and the further a pair is from it, the more its map answers
        the question that its decision raises: why accepted, or why not.

        Args:
            threshold: In units of the score.
            position: A fixed value instead, whatever score and threshold are.
        """
        if position is not None:
            low, high = (torch.full_like(scores, position) for scores in self.stranger_scores)
            return low, high
        first, second = (
            _odds_position(self.scores, threshold, low, high)
            for low, high in zip(self.stranger_scores, self.perfect_scores, strict=True)
        )
        return first, second

    def joined(self, positions: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Both maps in one, ``(1 - position) * strangers + position * partner``, for both images."""
        first, second = (
            # An image that is not explained has no map.
            (1 - weight[: len(above)]) * above + weight[: len(below)] * below
            for above, below, weight in zip(
                self.strangers, self.partner, (p[:, None, None, None] for p in positions), strict=True
            )
        )
        return first, second

    def explained(self, positions: tuple[Tensor, Tensor]) -> Tensor:
        """What the joined maps should sum to, ``(N, 2)``: the score less that of the two ends, weighted."""
        sums = [
            self.scores - (1 - weight) * low - weight * high
            for low, high, weight in zip(self.stranger_scores, self.perfect_scores, positions, strict=True)
        ]
        return torch.stack(sums, 1)


def _odds_position(scores: Tensor, threshold: float, low: Tensor, high: Tensor) -> Tensor:
    """The share of the question from above: 1 at ``low``, 1/2 at the threshold, 0 at ``high``."""
    # A threshold or score beyond an end is taken for that end.
    below, above = (scores - low).clamp(min=0), (high - scores).clamp(min=0)
    from_low, from_high = (threshold - low).clamp(min=0), (high - threshold).clamp(min=0)
    partner, strangers = above * from_low, below * from_high
    total = partner + strangers
    return torch.where(total > 0, partner / total.where(total > 0, 1), 0.5)


def morphs(
    n: int,
    size: tuple[int, int],
    *,
    softness: float | None = 1.0,
    scale: float = 6 / 112,
    generator: torch.Generator | None = None,
) -> Morphs:
    """Points on morphs in which every region has its own time.

    A smooth random field gives each pixel a time, uniform over [0, 1], around which it changes evenly from
    one face to the other. So a point shows some regions of one face and some of the other, with soft borders.
    The clock runs from the first pixel's beginning to the last one's end. There are four such morphs, the
    second and the fourth with the times of the one before reversed, and the points are spread over them
    evenly, each in the middle of its stretch of the clock. A pixel's weight is what changes of it in that
    stretch, so that all of its change is accounted for, whatever the fields are.

    Args:
        n: How many points.
        size: ``(H, W)`` in pixels.
        softness: How long a pixel takes, relative to the time between the first one's beginning and the last
            one's; None for all pixels at once, the straight line of integrated gradients.
        scale: Standard deviation of the Gaussian that makes the field smooth, as a share of the shorter side.
        generator: Source of randomness; None for torch's global one.

    Raises:
        ValueError: a count below 1, a softness or scale that is not above 0.

    Example::

        >>> points = morphs(8, (20, 20), generator=torch.Generator().manual_seed(0))
        >>> points.shares.shape, torch.allclose(points.weights.sum(0), torch.ones(20, 20))
        (torch.Size([8, 20, 20]), True)
    """
    require_positive_int(n, "n_points")
    if softness is None:
        shares = ((torch.arange(n) + 0.5) / n)[:, None, None].expand(n, *size)
        return Morphs(shares, torch.full_like(shares, 1 / n))
    require_positive(softness, "softness")
    require_positive(scale, "scale")
    device = generator.device if generator is not None else None
    noise = torch.randn(_N_FIELDS, *size, generator=generator, device=device).cpu()
    fields = smooth(noise, scale * min(size)).flatten(1)
    # Ranks: whatever the field's distribution is, its times are uniform.
    ranks = fields.argsort(1).argsort(1).reshape(-1, *size) / max(1, fields.shape[1] - 1)
    times = torch.stack([ranks, 1 - ranks], 1).flatten(0, 1)[:n]
    shares_of, weights_of = [], []
    for way, of_pixels in enumerate(times):
        steps = n // len(times) + (way < n % len(times))
        edges = torch.linspace(0, 1, steps + 1)

        def share(clock: Tensor, of_pixels: Tensor = of_pixels) -> Tensor:
            return ((clock[:, None, None] * (1 + softness) - of_pixels) / softness).clamp(0, 1)

        shares_of.append(share((edges[1:] + edges[:-1]) / 2))
        weights_of.append(share(edges).diff(dim=0) / len(times))
    return Morphs(torch.cat(shares_of), torch.cat(weights_of))


def require_strangers(strangers: object, images: tuple[Tensor, Tensor]) -> Tensor:
    """Aligned faces of other people as a tensor ``(M, C, H, W)`` like the images.

    Args:
        strangers: Images ``(M, C, H, W)``, a folder of them, or None for rendered people.
        images: Of both sides.

    Raises:
        TypeError, ValueError, OSError: none of these, or images of another size.

    Warns:
        UserWarning: fewer than :data:`FEWEST_STRANGERS`.
    """
    like = images[0]
    if strangers is None:
        return _rendered(like)
    if isinstance(strangers, (str, Path)):
        from captum_face.data.faces import read_faces

        strangers, _, _ = read_faces(strangers)
    faces = require_images(strangers, "strangers")
    if faces.shape[1:] != like.shape[1:]:
        raise ValueError(
            f"expected strangers (M, {', '.join(map(str, like.shape[1:]))}), of the size of the images, got "
            f"{tuple(faces.shape)}"
        )
    if len(faces) < FEWEST_STRANGERS:
        warnings.warn(
            f"{len(faces)} strangers are few: the map shows what tells the image from these very people; "
            f"give {FEWEST_STRANGERS} or more, best 8",
            UserWarning,
            stacklevel=4,
        )
    return faces.detach().to(like)


def _rendered(like: Tensor) -> Tensor:
    """Rendered people in the images' size and channels, aligned as crops for ArcFace are."""
    from captum_face.data.faces import render_faces

    faces = render_faces(_N_RENDERED)
    if like.shape[1] != faces.shape[1]:
        faces = faces.mean(1, keepdim=True).expand(-1, like.shape[1], -1, -1)
    return torch.nn.functional.interpolate(
        faces, like.shape[-2:], mode="bilinear", align_corners=False, antialias=True
    ).to(like)


def drawn_strangers(strangers: Tensor, n: int, generator: torch.Generator | None) -> Tensor:
    """At most ``n`` of them, in random order."""
    device = generator.device if generator is not None else None
    order = torch.randperm(len(strangers), generator=generator, device=device).to(strangers.device)
    return strangers[order[:n]]


def turns(strangers: Tensor, n: int) -> Tensor:
    """Whose turn it is at each of ``n`` points: each as often as any other, and evenly over all points."""
    return torch.arange(n, device=strangers.device) % len(strangers)


class Ends(NamedTuple):
    """What the ends of all morphs score, before the first morph; as in :class:`MorphComponents`."""

    stranger_scores: tuple[Tensor, Tensor]
    perfect_scores: tuple[Tensor, Tensor]
    scores: Tensor

    @classmethod
    def of(
        cls,
        forward_func: Callable[[Tensor, Tensor], Tensor],
        images: tuple[Tensor, Tensor],
        strangers: Tensor,
        threshold: float | None,
        *,
        n_turns: int | None = None,
        rendered: bool = False,
        size: BatchSize = None,
    ) -> Ends:
        """Scores the ends, and warns of what makes morphs meaningless.

        Args:
            forward_func: A :class:`~captum_face.PairSimilarity`, or any callable ``(a, b) -> (N,)``.
            images: Of both sides.
            strangers: ``(M, C, H, W)``, from :func:`drawn_strangers`.
            threshold: Strangers who score as high look like the pairs' own people; None for no threshold.
            n_turns: Points that the strangers share by :func:`turns`, for whose starts the mean score stands;
                None for one a stranger.
            rendered: The strangers are no photos, and nothing is said of how photos lie on them.
            size: Images in one pass.

        Cost: a forward pass for each image and each stranger; with a callable a score for each stranger and
        image, and three for each pair.

        Warns:
            UserWarning: strangers who look like a person of the pairs; images that seem not to be aligned.
        """
        count = max(len(image) for image in images)
        with torch.no_grad():
            if isinstance(forward_func, PairSimilarity):
                pair = forward_func
                own_a, own_b, others = (pair.embed_in_passes(some, size) for some in (*images, strangers))
                score = partial(_embedded_scores, pair)
            else:
                own_a, own_b, others = *images, strangers
                score = partial(_called_scores, forward_func)
            against_b, against_a = (
                torch.stack([score(*ends) for ends in rows])
                for rows in (((s, own_b) for s in others[:, None]), ((own_a, s) for s in others[:, None]))
            )
            if not rendered:
                if threshold is not None:
                    _warn_of_acquaintances(torch.cat([against_a, against_b], 1).amax(1), threshold)
                _warn_unaligned(images, strangers)
            drawn = turns(strangers, n_turns or len(strangers))
            return cls(
                (against_b[drawn].mean(0).expand(count), against_a[drawn].mean(0).expand(count)),
                (score(own_b, own_b).expand(count), score(own_a, own_a).expand(count)),
                score(own_a, own_b),
            )

    def components(self, strangers: tuple[Tensor, Tensor], partner: tuple[Tensor, Tensor]) -> MorphComponents:
        """With the maps of both questions."""
        return MorphComponents(strangers, partner, *self)


def _embedded_scores(pair: PairSimilarity, first: Tensor, second: Tensor) -> Tensor:
    """Scores ``(N,)`` of two batches of embeddings, of which one may be 1."""
    return pair.contributions(first, second).sum(-1)


def _called_scores(forward_func: Callable[..., Tensor], first: Tensor, second: Tensor) -> Tensor:
    """Scores ``(N,)`` of two batches of images, of which one may be 1."""
    # A callable of someone else's need not broadcast.
    count = max(len(first), len(second))
    ends = (images.expand(count, -1, -1, -1) for images in (first, second))
    return require_scores(forward_func(*ends), count, first)


def _warn_of_acquaintances(scores: Tensor, threshold: float) -> None:
    known = int((scores >= threshold).sum())
    if known:
        warnings.warn(
            f"{known} of {len(scores)} strangers look like a person of the pairs to the model (the nearest "
            f"scores {float(scores.max()):.3f}, the threshold is {threshold:.3f}): what tells this person "
            "from others is missing in the map then; leave them out",
            UserWarning,
            stacklevel=5,
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


def _warn_unaligned(images: tuple[Tensor, Tensor], faces: Tensor) -> None:
    if min(faces.shape[-2:]) < _FEWEST_PIXELS:
        return
    for side, image in zip("ab", images, strict=True):
        found = alignment(image, faces)
        worst = int(found.argmin())
        if found[worst] < _UNALIGNED:
            warnings.warn(
                f"image_{side}[{worst}] does not lie on the strangers' mean face: the correlation of their "
                f"edges is {float(found[worst]):.2f}, that of aligned faces above {_UNALIGNED}. Morphs "
                "between them are ghosts and no faces; align all images alike",
                UserWarning,
                stacklevel=5,
            )
