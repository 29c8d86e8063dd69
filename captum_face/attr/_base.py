"""What all pair methods share: checks, frozen models, both sides, shapes."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from captum.attr import Attribution
from torch import Tensor
from tqdm.auto import tqdm

from captum_face._validation import not_differentiable, require_baselines, require_pair
from captum_face.engines.masks import masked_scores
from captum_face.pair.passes import BatchSize
from captum_face.pair.similarity import PairSimilarity, frozen

__all__ = ["PairAttribution", "Side", "first_side_alone", "gradients_enabled", "image_gradient"]


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


class Side(NamedTuple):
    """One image to explain, and the pairs it stands in."""

    image: Tensor  #: ``(1, C, H, W)``
    partners: Tensor  #: ``(K, C, H, W)``: the other images of its K pairs
    rows: slice  #: which of the N pairs these are
    swapped: bool  #: the image is the second of its pairs

    def row_of(self, value: float | Tensor) -> float | Tensor:
        """This image's own row of a value that is a number, ``(1, ...)`` or one row an image."""
        return value[self.rows.start, None] if isinstance(value, Tensor) and len(value) > 1 else value


class PairAttribution(Attribution):
    """Base of the methods that explain a pair of images.

    A method defines ``attribute(inputs, *, ...)``, decorated with :func:`captum.log.log_usage`
    (:class:`captum.attr.NoiseTunnel` relies on it), and inside it calls :meth:`_explain_sides` with a
    function that maps one image of a pair to its relevance.

    Shared by all methods:

    * ``inputs`` is ``(image_a, image_b)``: float ``(N, C, H, W)`` in [0, 1]; a batch of 1 on one side
      stands against all N of the other and is computed once.
    * The result is ``(attr_a, attr_b)``, each ``(N, C, H, W)`` on the inputs' device and in their dtype,
      without gradients: for a side of batch 1, one map for each of its N pairs. Positive speaks for the
      same person, negative against. A method with one value per pixel repeats it over the channels.
    * The model runs in eval mode with frozen parameters and is left as it was, also after an error.
    * A batch gives what its items give one by one.

    Args:
        forward_func: A :class:`~captum_face.PairSimilarity`; methods that need scores alone also take
            any callable ``(image_a, image_b) -> (N,)``.
    """

    forward_func: Callable[..., Tensor]
    _sides_explained = 2  # 1 in the copies of first_side_alone()
    #: Whether ``baselines`` of several images are a sample for every pair, and not one for each.
    sampled_baselines: bool = False

    def __init__(self, forward_func: Callable[..., Tensor]) -> None:
        super().__init__(forward_func)

    def _require_pair_similarity(self) -> PairSimilarity:
        if not isinstance(self.forward_func, PairSimilarity):
            raise TypeError(
                f"{type(self).__name__} needs embeddings and expected a PairSimilarity, got "
                f"{type(self.forward_func).__name__}; wrap the model with PairSimilarity(embedding_model), "
                "or use CorrRISE, which needs scores alone"
            )
        return self.forward_func

    @contextmanager
    def _prepared(self, inputs: tuple[Tensor, Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Checked images without gradients, while the model is frozen."""
        image_a, image_b = require_pair(inputs)
        if not callable(self.forward_func):
            raise TypeError(f"expected forward_func to be callable, got {type(self.forward_func).__name__}")
        with frozen(self.forward_func):
            yield image_a.detach(), image_b.detach()

    def _explain_sides(
        self,
        images: tuple[Tensor, Tensor],
        explain: Callable[[Side, Callable[[int], object]], Tensor],
        steps_per_image: int,
        show_progress: bool,
    ) -> tuple[Tensor, Tensor]:
        """Both sides' attributions from a function that explains one image.

        Args:
            images: From :meth:`_prepared`.
            explain: From a :class:`Side` and a progress callback to maps ``(K, H, W)`` or
                ``(K, C, H, W)``, one for each of its K pairs.
            steps_per_image: What the progress callback sums up to for one image.
            show_progress: Whether a bar is shown.
        """
        count = max(len(image) for image in images)
        sides = [
            [
                Side(image[None], partners[rows] if len(partners) > 1 else partners, rows, swapped)
                for image, rows in zip(own, _pair_rows(len(own), count), strict=True)
            ]
            for own, partners, swapped in (
                (images[0], images[1], False),
                (images[1], images[0], True),
            )[: self._sides_explained]
        ]
        total = steps_per_image * sum(len(side) for side in sides)
        with tqdm(total=total, desc=type(self).__name__, disable=not show_progress) as bar:
            maps = [
                torch.cat([_like_images(explain(side, bar.update), side) for side in own]) for own in sides
            ]
        return maps[0], maps[1] if len(maps) > 1 else images[1][:0]

    def _explain_by_masks(
        self,
        images: tuple[Tensor, Tensor],
        masks: Tensor,
        statistic: Callable[[Tensor], Tensor],
        *,
        baselines: object = 0,
        perturbations_per_eval: BatchSize = None,
        show_progress: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Both sides' attributions as a statistic of scores under masks.

        Args:
            images: From :meth:`_prepared`.
            masks: ``(n, H, W)``, 1 = kept; the same for all images.
            statistic: From scores ``(K, n)``, a row for each partner, to maps ``(K, H, W)``.
            baselines: What hidden pixels show, see :func:`~captum_face._validation.require_baselines`.
            perturbations_per_eval: Masked images in one forward pass; None for what suits the device,
                ``"auto"`` for what is measured to be cheapest.
            show_progress: Whether a bar is shown.
        """
        fills = require_baselines(baselines, images)
        # A single image that has a fill for each of its partners is a different masked image for each.
        image_a, image_b = (
            image.expand(len(fill), -1, -1, -1)
            if isinstance(fill, Tensor) and len(fill) > len(image)
            else image
            for image, fill in zip(images, fills, strict=True)
        )
        images = (image_a, image_b)

        def explain(side: Side, progress: Callable[[int], object]) -> Tensor:
            scores = masked_scores(
                self.forward_func,
                side.image,
                side.partners,
                masks,
                swapped=side.swapped,
                baseline=side.row_of(fills[side.swapped]),
                perturbations_per_eval=perturbations_per_eval,
                progress=progress,
            )
            return statistic(scores)

        return self._explain_sides(images, explain, len(masks), show_progress)

    @classmethod
    def options(cls) -> dict[str, inspect.Parameter]:
        """The keyword options of :meth:`attribute`, by name."""
        parameters = inspect.signature(cls.attribute).parameters
        return {name: p for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY}


def first_side_alone(method: PairAttribution) -> PairAttribution:
    """A copy of a method that spends nothing on image B: ``attribute`` answers ``(attr_a, no map)``.

    The second tensor is ``(0, C, H, W)``.
    """
    twin = copy.copy(method)
    twin._sides_explained = 1
    return twin


def _pair_rows(images: int, pairs: int) -> list[slice]:
    """The pairs in which each image of a side stands: all for a single image, else its own."""
    return [slice(0, pairs)] if images == 1 else [slice(i, i + 1) for i in range(images)]


def _like_images(maps: Tensor, side: Side) -> Tensor:
    if maps.ndim == 3:
        maps = maps[:, None].expand(-1, side.image.shape[1], -1, -1)
    # Contiguous: Captum's metrics call .view() on attributions.
    return maps.detach().to(side.image).contiguous()
