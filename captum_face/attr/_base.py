"""What all pair methods share: checks, frozen models, both sides, shapes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from captum.attr import Attribution
from torch import Tensor
from tqdm.auto import tqdm

from captum_face._validation import require_pair
from captum_face.pair import PairSimilarity, frozen

__all__ = ["PairAttribution", "Side"]


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
            )
        ]
        total = steps_per_image * sum(len(side) for side in sides)
        with tqdm(total=total, desc=type(self).__name__, disable=not show_progress) as bar:
            maps = [
                torch.cat([_like_images(explain(side, bar.update), side) for side in own]) for own in sides
            ]
        return maps[0], maps[1]

    @classmethod
    def options(cls) -> dict[str, inspect.Parameter]:
        """The keyword options of :meth:`attribute`, by name."""
        parameters = inspect.signature(cls.attribute).parameters
        return {name: p for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY}


def _pair_rows(images: int, pairs: int) -> list[slice]:
    """The pairs in which each image of a side stands: all for a single image, else its own."""
    return [slice(0, pairs)] if images == 1 else [slice(i, i + 1) for i in range(images)]


def _like_images(maps: Tensor, side: Side) -> Tensor:
    if maps.ndim == 3:
        maps = maps[:, None].expand(-1, side.image.shape[1], -1, -1)
    # Contiguous: Captum's metrics call .view() on attributions.
    return maps.detach().to(side.image).contiguous()
