"""A pair's score as a function of one image, for methods that are made for one input."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from captum_face._validation import not_differentiable, require_scores
from captum_face.attr._base import Side, gradients_enabled
from captum_face.pair.passes import BatchSize
from captum_face.pair.scores import Cosine, unit
from captum_face.pair.similarity import AgainstReference, PairSimilarity

__all__ = ["NormalisedBy", "require_differentiable", "scores_of_one_image"]


def _differentiable(embeddings: Tensor, images: Tensor) -> Tensor:
    if torch.is_grad_enabled() and images.requires_grad and not embeddings.requires_grad:
        raise not_differentiable()
    return embeddings


def require_differentiable(pair: PairSimilarity, image: Tensor) -> None:
    """Raises the error that says so where a model has no gradient for ``image``, at a forward pass."""
    with gradients_enabled():
        leaf = image.clone().requires_grad_()
        _differentiable(pair.embed(leaf), leaf)


class _OneImage(AgainstReference):
    """The score as a function of one image, as the first or the second of its pair."""

    def __init__(self, pair: PairSimilarity, reference: Tensor, swapped: bool) -> None:
        super().__init__(pair, reference)
        self.swapped = swapped

    def forward(self, images: Tensor) -> Tensor:
        own = _differentiable(self.pair.embed(images), images)
        # A score of someone else's need not be symmetric.
        return self.pair.score(*((self.reference, own) if self.swapped else (own, self.reference)))


class NormalisedBy(nn.Module):
    """The score against a reference, whose cosine normalises the image's embedding in a way of its own.

    Args:
        against: From :meth:`~captum_face.PairSimilarity.against`.
        rule: From embeddings ``(N, D)`` to the same scaled to length 1. Other scores do not normalise.
    """

    def __init__(self, against: AgainstReference, rule: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.against = against
        self.rule = rule

    def forward(self, images: Tensor) -> Tensor:
        pair = self.against.pair
        if type(pair.score) is not Cosine:
            return self.against(images)
        own = self.rule(_differentiable(pair.embed(images), images))
        return (own * unit(self.against.reference)).sum(-1)


def scores_of_one_image(
    forward_func: Callable[..., Tensor], side: Side, size: BatchSize = None
) -> Iterator[tuple[Tensor, Callable[[Tensor], Tensor]]]:
    """Each partner ``(1, C, H, W)`` of an image, and the score against it as a function of the image.

    ``size`` partners are embedded in one pass.
    """
    partners = side.partners.clone()
    if isinstance(forward_func, PairSimilarity):
        with torch.no_grad():
            embeddings = forward_func.embed_in_passes(partners, size)
        for partner, embedding in zip(partners, embeddings, strict=True):
            yield partner[None], _OneImage(forward_func, embedding[None], side.swapped)
        return
    for partner in partners:

        def score(images: Tensor, partner: Tensor = partner) -> Tensor:
            # A callable of someone else's need not broadcast.
            ends = (images, partner.expand_as(images))
            answer = forward_func(*(reversed(ends) if side.swapped else ends))
            return require_scores(answer, len(images), images)

        yield partner[None], score
