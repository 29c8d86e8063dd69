"""A pair's score as a function of one image, for methods that are made for one input."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from captum_face._validation import not_differentiable, require_scores
from captum_face.engines.sides import Side, gradients_enabled, image_gradient
from captum_face.pair.similarity import AgainstReference, PairSimilarity

__all__ = ["NormalisedBy", "gradients_must_come", "require_differentiable", "score_of_one_image"]


def _differentiable(embeddings: Tensor, images: Tensor) -> Tensor:
    if torch.is_grad_enabled() and images.requires_grad and not embeddings.requires_grad:
        raise not_differentiable()
    return embeddings


def require_differentiable(pair: PairSimilarity, image: Tensor) -> None:
    """Raises the error that says so where no gradient comes back to ``image``, at one pass each way."""
    with gradients_enabled():
        leaf = image.clone().requires_grad_()
        image_gradient(pair.embed(leaf), leaf)


class _Watched(torch.autograd.Function):
    """The identity, which notes that a gradient came back."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, gradients: list[None]) -> Tensor:
        ctx.gradients = gradients
        ctx.set_materialize_grads(False)  # else none would come as zeros
        return images.view_as(images)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None) -> tuple[Tensor | None, None]:
        if gradient is not None:
            ctx.gradients.append(None)
        return gradient, None


@contextmanager
def gradients_must_come(score: Callable[[Tensor], Tensor], *, to_the_image: bool) -> Iterator[None]:
    """Refuses a model through which no gradient comes, as a quantised layer's does not: its map would be 0.

    Args:
        score: From :func:`score_of_one_image`.
        to_the_image: Whether its body takes gradients for the image, and not for a layer.

    Raises:
        TypeError: none has come.
    """
    try:
        yield
    except RuntimeError as error:
        if "to not have been used in the graph" in str(error) or "does not require grad" in str(error):
            raise not_differentiable() from error
        raise
    if to_the_image and isinstance(score, _OneImage) and score.cut_off:
        raise not_differentiable()


class _OneImage(AgainstReference):
    """The score as a function of one image, as the first or the second of its pair."""

    def __init__(self, pair: PairSimilarity, reference: Tensor, swapped: bool) -> None:
        super().__init__(pair, reference)
        self.swapped = swapped
        self._watched = False
        self._gradients: list[None] = []  # an item for each that came back to the image

    @property
    def cut_off(self) -> bool:
        """Whether images that take gradients have passed, and none has come back."""
        return self._watched and not self._gradients

    def embed(self, images: Tensor) -> Tensor:
        """Embeddings ``(N, D)``, with a watch on what comes back to the images.

        Raises:
            TypeError: the images take gradients and the embeddings hang on nothing that does.
        """
        if torch.is_grad_enabled() and images.requires_grad:
            images, self._watched = _Watched.apply(images, self._gradients), True
        return _differentiable(self.pair.embed(images), images)

    def ordered(self, own: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
        """A score need not be symmetric."""
        return (reference, own) if self.swapped else (own, reference)

    def forward(self, images: Tensor) -> Tensor:
        return self.pair.score(*self.ordered(self.embed(images), self.reference))


class NormalisedBy(nn.Module):
    """The score against a reference, with a way of its own to normalise the image's embedding.

    Scores that do not normalise (:attr:`Score.normalises <captum_face.pair.scores.Score.normalises>`) take
    embeddings as they are.

    Args:
        against: From :func:`score_of_one_image` with a :class:`~captum_face.PairSimilarity`.
        rule: From embeddings ``(N, D)`` to the same scaled to length 1.
        compared: The identity with a way back of its own, for what is compared then; None for the usual one.
    """

    def __init__(
        self,
        against: Callable[[Tensor], Tensor],
        rule: Callable[[Tensor], Tensor],
        compared: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        assert isinstance(against, _OneImage)
        self.against = against
        self.rule = rule
        self.compared = compared or nn.Identity()
        self.applies = self._applies()

    def _applies(self) -> bool:
        score, reference = self.against.pair.score, self.against.reference
        if not score.normalises:
            return False
        expected = score.contributions(reference, reference)
        ends = score.normalise(reference), score.normalise(reference)
        if torch.allclose(score.compare(*ends), expected, rtol=1e-4, atol=1e-6):
            return True
        warnings.warn(
            f"the score {score.name!r} normalises, but its contributions() are not compare() of normalised "
            "embeddings: it is differentiated as it is, with the length of the embedding; define compare() "
            "instead of contributions()",
            UserWarning,
            stacklevel=2,
        )
        return False

    def forward(self, images: Tensor) -> Tensor:
        score, reference = self.against.pair.score, self.against.reference
        own = self.against.embed(images)
        if not self.applies:
            return score(*self.against.ordered(self.compared(own), reference))
        ends = self.against.ordered(self.compared(self.rule(own)), score.normalise(reference))
        return score.compare(*ends).sum(-1)


def score_of_one_image(side: Side) -> Callable[[Tensor], Tensor]:
    """The score of images in place of a side's own, against its single partner.

    :meth:`~captum_face.engines.sides.Side.each` gives such sides.
    """
    if isinstance(side.forward_func, PairSimilarity):
        return _OneImage(side.pair, side.partner_embeddings, side.swapped)

    def score(images: Tensor) -> Tensor:
        # Any other callable need not broadcast.
        answer = side.forward_func(*side.ordered(images, side.partners.expand_as(images)))
        return require_scores(answer, len(images), images)

    return score
