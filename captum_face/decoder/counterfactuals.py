"""What would have to change for a match: A's face, drawn with ever more of B's channels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from captum_face._validation import require_pair, require_positive_int
from captum_face.decoder.network import FaceDecoder, decode, find_decoder
from captum_face.pair.similarity import PairSimilarity

__all__ = ["Counterfactual", "counterfactual"]


@dataclass(frozen=True, eq=False)  # tensors have no single answer to ==
class Counterfactual:
    """A's face on its way to a match; made by :func:`counterfactual`."""

    images: tuple[Tensor, Tensor]  #: ``(1, C, H, W)`` each
    pictures: Tensor  #: ``(S, C, H, W)``: A drawn with some of B's channels
    counts: tuple[int, ...]  #: how many channels are B's in each picture
    scores: Tensor  #: ``(S,)``: score of the mixed embedding and B's
    picture_scores: Tensor  #: ``(S,)``: score of the picture itself and image B
    order: Tensor  #: ``(D,)``: the channels, those that speak most against a match first
    needed: int | None  #: fewest of them that lead to a match; None if not even all do
    threshold: float  #: the verification threshold


def counterfactual(
    pair: PairSimilarity,
    image_a: Tensor,
    image_b: Tensor,
    *,
    decoder: FaceDecoder | str | Path | None = None,
    steps: int = 5,
) -> Counterfactual:
    """Draws A with its most dissimilar channels replaced by B's, step by step.

    Channels are replaced in the order of their contributions to the score, the lowest first. The pictures
    lead from A's own reconstruction to the first match in equal steps, and end with all channels B's; where
    the pair is a match already, in equal steps to all channels.

    Args:
        pair: The model, with its threshold.
        image_a: ``(1, C, H, W)`` in [0, 1].
        image_b: The same.
        decoder: The model's decoder or the file of one; None for the bundled model's.
        steps: Pictures on the way, besides the last.

    Returns:
        A :class:`Counterfactual`. The scores are those of embeddings; a picture shows what the decoder makes
        of them, and its own score says how much of the change it carries.

    Cost: ``steps + 4`` forward passes of the model, ``steps + 1`` of the decoder.

    Raises:
        TypeError, ValueError: no threshold; no decoder for this model; bad images, or more than one pair.
    """
    images = require_pair((image_a, image_b))
    if len(images[0]) != 1 or len(images[1]) != 1:
        raise ValueError(f"expected one pair, got batches of {len(images[0])} and {len(images[1])}")
    require_positive_int(steps, "steps")
    threshold = pair.needed_threshold()
    with pair.frozen(), torch.no_grad():
        own, other = (pair.embed(image) for image in images)
        drawer = find_decoder(pair, decoder, own, images[0])
        order = pair.contributions(own, other)[0].argsort(stable=True)
        dimensions = len(order)
        rank = order.argsort()
        # Row n has the first n channels from B.
        mixed = torch.where(rank < torch.arange(dimensions + 1, device=rank.device)[:, None], other, own)
        path = pair.contributions(mixed, other).sum(1)
        match = (path >= threshold).nonzero()[:, 0].tolist()
        needed = match[0] if match else None
        counts = torch.linspace(0, needed or dimensions, steps).round().int().tolist()
        counts = sorted({*counts, dimensions})
        pictures = decode(drawer, mixed[counts]).to(images[0])
        picture_scores = pair.contributions(pair.embed(pictures), other).sum(1)
    return Counterfactual(
        images, pictures, tuple(counts), path[counts], picture_scores, order, needed, threshold
    )
