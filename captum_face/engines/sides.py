"""The two sides of a pair, as a method is handed them.

A method is written for one image and the K partners that it stands against. Batches, broadcasting, known
embeddings, both sides and the progress bar are :class:`Sides`'.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from captum_face._progress import progress_bar
from captum_face._validation import not_differentiable, require_baselines, require_threshold
from captum_face.engines.masks import mask_scorer
from captum_face.maps.templates import TEMPLATES, Template
from captum_face.pair.passes import BatchSize
from captum_face.pair.scores import shown
from captum_face.pair.similarity import PairSimilarity, score_pairs
from captum_face.pair.speed import accelerated, embedding_of_copy, images_per_pass, observed

__all__ = ["Ready", "Side", "Sides", "gradients_enabled", "image_gradient"]


class Ready(Exception):
    """Ends a call that only looks at what can be wrong, where its maps would be computed."""


@contextmanager
def gradients_enabled() -> Iterator[None]:
    """Gradients are on inside, also where a caller switched them off (NoiseTunnel, inference mode)."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def image_gradient(scores: Tensor, images: Tensor, *, retain_graph: bool = False) -> Tensor:
    """Gradient of the sum of ``scores`` with respect to ``images``, of the images' shape.

    Raises:
        TypeError: the scores do not depend on the images differentiably.
        ValueError: gradients that are NaN or infinite.
    """
    if not scores.requires_grad:
        raise not_differentiable()
    (gradient,) = torch.autograd.grad(scores.sum(), images, retain_graph=retain_graph, allow_unused=True)
    if gradient is None:
        raise not_differentiable()
    if not torch.isfinite(gradient).all():
        raise ValueError("expected finite gradients, got NaN or infinite ones")
    return gradient


@dataclass(frozen=True, eq=False)
class Side:
    """One image to explain, and the partners that it stands against."""

    sides: Sides  #: the call that it belongs to
    image: Tensor  #: ``(1, C, H, W)``
    partners: Tensor  #: ``(K, C, H, W)``: the other images of its K pairs
    rows: slice  #: which of the N pairs of the call these are
    swapped: bool  #: whether the image is the second of its pairs
    counted: bool = True  #: whether :meth:`done` moves the progress bar

    @property
    def forward_func(self) -> Callable[..., Tensor]:
        """What gives the scores."""
        return self.sides.forward_func

    @property
    def pair(self) -> PairSimilarity:
        """The pair wrapper.

        Raises:
            TypeError: the scores come from another callable.
        """
        return self.sides.pair

    @property
    def embedding(self) -> Tensor:
        """The image's own embedding ``(1, D)``, without gradients; each image is embedded once for a call."""
        return self._rows_of(self.sides.embeddings(self.swapped))

    @property
    def partner_embeddings(self) -> Tensor:
        """The partners' embeddings ``(K, D)``, without gradients; each image is embedded once for a call."""
        return self._rows_of(self.sides.embeddings(not self.swapped))

    @cached_property
    def quick(self) -> PairSimilarity:
        """The pair wrapper with its accelerated copy of the model; see :mod:`captum_face.pair.speed`."""
        exact = self.pair.precision == "float32"
        return accelerated(self.pair, self.image, (lambda: self.embedding) if exact else None)

    def ordered(self, own: Tensor, partner: Tensor) -> tuple[Tensor, Tensor]:
        """``(a, b)`` in the order of the pair, whichever side this is: a score need not be symmetric."""
        return (partner, own) if self.swapped else (own, partner)

    def contributions(self, own: Tensor, partners: Tensor | None = None) -> Tensor:
        """Each channel's share of the score, ``(K, D)``; the sum over D is the score.

        Args:
            own: Embeddings of this image, or of what became of it, ``(1, D)`` or ``(K, D)``.
            partners: Embeddings of the partners; None for :attr:`partner_embeddings`.
        """
        return self.pair.contributions(
            *self.ordered(own, self.partner_embeddings if partners is None else partners)
        )

    def images_per_pass(self, *, backward: bool = False) -> int:
        """How many images go through the model at once, for what the caller of the method asked for."""
        if not isinstance(self.forward_func, PairSimilarity):
            return images_per_pass(self.sides.batch_size, self.forward_func, self.image)
        return images_per_pass(self.sides.batch_size, self.quick, self.image, backward=backward)

    def mask_scorer(self, baseline: float | Tensor = 0) -> Callable[[Tensor], Tensor]:
        """From masks ``(n, H, W)``, 1 = kept, to the scores ``(K, n)`` of the masked image.

        Scores are without gradients and in double precision. The progress bar counts masked images.

        Args:
            baseline: What hidden pixels show: a number, ``(1, C, H, W)``, or one image for each mask.

        Cost: with a :class:`~captum_face.PairSimilarity` a forward pass for each mask, shared by all
        partners; with another callable one for each mask and partner.
        """
        is_pair = isinstance(self.forward_func, PairSimilarity)
        known = self._rows_of(self.sides.embeddings_beside(self)) if is_pair else None
        return mask_scorer(
            self.quick if is_pair else self.forward_func,
            self.image,
            self.partners,
            swapped=self.swapped,
            baseline=baseline,
            partner_embeddings=known,
            accelerate=False,  # it is already
            perturbations_per_eval=self.sides.batch_size,
            progress=self.done,
        )

    def masked_scores(self, masks: Tensor, baseline: float | Tensor = 0) -> Tensor:
        """Scores ``(K, n)`` of the image under masks ``(n, H, W)``; see :meth:`mask_scorer`."""
        return self.mask_scorer(baseline)(masks)

    def each(self) -> Iterator[Side]:
        """The image against each of its partners alone; the progress bar counts the first one's steps."""
        for place, row in enumerate(range(self.rows.start, self.rows.stop)):
            partner = self.partners[place, None] if len(self.partners) > 1 else self.partners
            yield replace(
                self, partners=partner, rows=slice(row, row + 1), counted=self.counted and place == 0
            )

    def own_row(self, value: Any) -> Any:
        """This image's own part of a value that is a number, ``(1, ...)`` or has a row for each image."""
        return value[self.rows.start, None] if isinstance(value, Tensor) and len(value) > 1 else value

    def done(self, n: int = 1) -> None:
        """Moves the progress bar on by ``n`` steps."""
        if self.counted:
            self.sides.bar.update(n)

    def note(self, name: str, values: Tensor) -> None:
        """Keeps a detail beside the maps, ``(K,)``: see
        :meth:`~captum_face.PairAttribution.attribute_detailed`.
        """
        k = self.rows.stop - self.rows.start
        if values.shape != (k,):
            raise ValueError(
                f"expected {name} with a value for each of {k} pair(s), got {tuple(values.shape)}"
            )
        self.sides.note(self.swapped, name, values)

    def _rows_of(self, table: Tensor) -> Tensor:
        return table[self.rows] if len(table) > 1 else table


@dataclass(eq=False)
class Sides:
    """Both images of N pairs, and what all methods share while they explain them.

    The model is frozen and gradients are off while a method has one in its hands.
    """

    forward_func: Callable[..., Tensor]  #: what gives the scores
    images: tuple[Tensor, Tensor]  #: both sides, each ``(N, C, H, W)`` or ``(1, C, H, W)``, without gradients
    which: tuple[bool, ...] = (False, True)  #: which sides are explained, as :attr:`Side.swapped` calls them
    batch_size: BatchSize = None  #: images in one pass, as the caller of the method gave it
    float32: bool = False  #: whether the model computes in float32, whatever the pair's precision
    name: str = ""  #: of the method, beside the progress bar
    show_progress: bool = False  #: whether a progress bar is shown
    known: Mapping[bool, Tensor] = field(default_factory=dict)  #: embeddings that the caller has, by side
    notes: dict[str, tuple[list[Tensor], list[Tensor]]] = field(
        default_factory=dict
    )  #: see :meth:`Side.note`
    detailed: bool = False  #: whether details are asked for that cost passes of their own
    dry: bool = False  #: whether the call ends, by :class:`Ready`, where its maps would be computed
    remarks: dict[str, str] = field(default_factory=dict)  #: what to say of how the maps came about, by topic
    bar: Any = field(default_factory=lambda: progress_bar(disable=True), repr=False)

    def __post_init__(self) -> None:
        self._embeddings: dict[bool, Tensor] = dict(self.known)
        self._by_copy: dict[bool, Tensor] = {}
        self._embedded = self.images

    @property
    def n_pairs(self) -> int:
        """How many pairs there are, which is the larger of both batches."""
        return max(len(image) for image in self.images)

    @property
    def size(self) -> tuple[int, int]:
        """``(H, W)`` of the images in pixels."""
        return self.images[0].shape[-2], self.images[0].shape[-1]

    @property
    def alignment(self) -> str | None:
        """How the model expects faces to lie; by ArcFace's points unless a pair wrapper says otherwise."""
        return None if self.template is None else self.template.name

    @property
    def template(self) -> Template | None:
        """Where landmarks lie in the images, in the template's own size; None if that is not known."""
        return getattr(self.forward_func, "template", TEMPLATES["arcface"])

    @cached_property
    def pair(self) -> PairSimilarity:
        """The pair wrapper.

        Raises:
            TypeError: the scores come from another callable.
        """
        pair = require_pair_similarity(self.forward_func, self.name)
        return pair.in_float32() if self.float32 else pair

    def threshold(self, given: float | None) -> float | None:
        """The threshold that an option gives, or else the pair's own; None if there is none.

        Raises:
            TypeError, ValueError: not a finite number, or one that the pair's score cannot reach.
        """
        if given is None:
            return getattr(self.forward_func, "threshold", None)
        pair = self.forward_func
        return pair.score.given(given) if isinstance(pair, PairSimilarity) else require_threshold(given)

    def threshold_share(self, given: float | None) -> Tensor:
        """Each channel's share of the threshold, ``(N, 1)`` or ``(1, 1)``.

        Without a threshold it is the share of what unrelated embeddings score
        (:meth:`Score.unrelated <captum_face.pair.scores.Score.unrelated>`), and a remark says so.

        Raises:
            TypeError, ValueError: as :meth:`threshold`.
        """
        theta = self.threshold(given)
        ends = self.embeddings(False), self.embeddings(True)
        values = self.pair.score.unrelated(*ends)[:, None]
        if theta is None:
            distance = self.pair.score.distance
            ends_shown = sorted(shown(float(value), distance) for value in torch.aminmax(values))
            low, high = (f"{value:.3g}" for value in ends_shown)
            level = low if low == high else f"{low} to {high}"
            self.remarks["threshold"] = f"at threshold {level} (none given)"
        else:
            values = torch.full_like(values[:1], theta)
        return values / ends[0].shape[1]

    def embeddings(self, swapped: bool) -> Tensor:
        """One side's embeddings ``(N, D)`` or ``(1, D)``, without gradients; computed when needed."""
        if swapped not in self._embeddings:
            with observed(self.pair):
                self._embeddings[swapped] = self.pair.embed_in_passes(
                    self._embedded[swapped], self.batch_size
                )
        return self._embeddings[swapped]

    def embeddings_beside(self, side: Side) -> Tensor:
        """The partners' side as the accelerated copy embeds it, which embeds masked images too."""
        swapped = not side.swapped
        if swapped in self.known or side.quick is self.pair:
            return self.embeddings(swapped)
        if swapped not in self._by_copy:
            images = self._embedded[swapped]
            self._by_copy[swapped] = (
                embedding_of_copy(self.pair, images, lambda: self.embeddings(swapped))
                if len(images) == 1 and self.pair.precision == "float32"
                else side.quick.embed_in_passes(images, self.batch_size)
            )
        return self._by_copy[swapped]

    @property
    def contributions(self) -> Tensor:
        """Each channel's share of the scores, ``(N, D)``."""
        return self.pair.contributions(self.embeddings(False), self.embeddings(True))

    @property
    def scores(self) -> Tensor:
        """The pairs' scores ``(N,)``, as the pair wrapper computes them."""
        if (
            isinstance(self.forward_func, PairSimilarity)
            and self.pair.precision == self.forward_func.precision
        ):
            return self.contributions.sum(-1)
        return score_pairs(self.forward_func, *self.images)

    def explain(self, one: Callable[[Side], Tensor], steps: int = 1) -> tuple[Tensor, ...]:
        """The attributions of the sides that are explained.

        Args:
            one: From a :class:`Side` to the maps of its K pairs, ``(K, H, W)`` or ``(K, C, H, W)``.
            steps: What :meth:`Side.done` counts up to for one image.

        Returns:
            For each side ``(N, C, H, W)`` on the images' device and in their dtype.
        """
        if self.dry:
            raise Ready
        total = steps * sum(len(self.images[swapped]) for swapped in self.which)
        with progress_bar(total=total, desc=self.name, disable=not self.show_progress) as self.bar:
            return tuple(
                torch.cat([self._like_images(one(side), side) for side in self._of(swapped)])
                for swapped in self.which
            )

    def explain_by_masks(
        self, masks: Tensor, statistic: Callable[[Tensor], Tensor], *, baselines: object = 0
    ) -> tuple[Tensor, ...]:
        """:meth:`explain` by a statistic of the scores under masks.

        Args:
            masks: ``(n, H, W)``, 1 = kept; the same for all images.
            statistic: From scores ``(K, n)``, a row for each partner, to maps ``(K, H, W)``.
            baselines: What hidden pixels show, for both sides or a tuple of two: a number, ``"partner"`` or a
                tensor of 1 or N images.
        """
        sides, fills = self.with_baselines(baselines)
        return sides.explain(
            lambda side: statistic(side.masked_scores(masks, side.own_row(fills[side.swapped]))), len(masks)
        )

    def with_baselines(self, baselines: object) -> tuple[Sides, tuple[float | Tensor, float | Tensor]]:
        """What hidden pixels show on both sides, and these sides with an image for each of its baselines.

        A single image with a baseline for each of its partners is a different masked image for each.
        """
        fills = require_baselines(baselines, self.images)
        image_a, image_b = (
            image.expand(len(fill), -1, -1, -1)
            if isinstance(fill, Tensor) and len(fill) > len(image)
            else image
            for image, fill in zip(self.images, fills, strict=True)
        )
        expanded = replace(self, images=(image_a, image_b))
        # Of one image they serve all its copies.
        expanded._embeddings, expanded._by_copy = self._embeddings, self._by_copy
        expanded._embedded = self._embedded
        return expanded, fills

    def images_per_pass(self, *, backward: bool = False) -> int:
        """How many images go through the model itself at once, for what the caller asked for."""
        if not isinstance(self.forward_func, PairSimilarity):
            return images_per_pass(self.batch_size, self.forward_func, self.images[0][:1])
        return images_per_pass(self.batch_size, self.pair, self.images[0][:1], backward=backward)

    def note(self, swapped: bool, name: str, values: Tensor) -> None:
        """Keeps a detail of one side's maps, see :meth:`Side.note`."""
        self.notes.setdefault(name, ([], []))[swapped].append(values.detach().cpu())

    def details(self) -> dict[str, Tensor]:
        """What :meth:`Side.note` kept, by name: ``(N, 2)``, or ``(N, 1)`` where one side is explained."""
        return {
            name: torch.stack([torch.cat(of_side[swapped]) for swapped in self.which], 1)
            for name, of_side in self.notes.items()
        }

    def _of(self, swapped: bool) -> Iterator[Side]:
        own, partners, n = self.images[swapped], self.images[not swapped], self.n_pairs
        for index, image in enumerate(own):
            rows = slice(0, n) if len(own) == 1 else slice(index, index + 1)
            yield Side(self, image[None], partners[rows] if len(partners) > 1 else partners, rows, swapped)

    def _like_images(self, maps: object, side: Side) -> Tensor:
        image, k = self.images[0], side.rows.stop - side.rows.start
        height, width = self.size
        shapes = (
            (k, height, width),
            (k, image.shape[1], height, width),
            (k, 2 * image.shape[1], height, width),
        )
        if not isinstance(maps, Tensor) or tuple(maps.shape) not in shapes:
            came = tuple(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
            raise ValueError(
                f"expected maps ({k}, {height}, {width}) or ({k}, {image.shape[1]}, {height}, {width}) from "
                f"{self.name} for an image with {k} partner(s), got {came}"
            )
        if not torch.isfinite(maps).all():
            raise ValueError(f"expected finite maps from {self.name}, got NaN or infinite values")
        if maps.ndim == 3:
            maps = maps[:, None].expand(-1, image.shape[1], -1, -1)
        # Contiguous: Captum's metrics call .view() on attributions.
        return maps.detach().to(image).contiguous()


def require_pair_similarity(forward_func: object, who: str) -> PairSimilarity:
    """Returns ``forward_func`` if it is a :class:`~captum_face.PairSimilarity`, which has embeddings.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(forward_func, PairSimilarity):
        raise TypeError(
            f"{who} needs embeddings and expected a PairSimilarity, got {type(forward_func).__name__}; wrap "
            "the model with PairSimilarity(embedding_model), or use CorrRISE, which needs scores alone"
        )
    return forward_func
