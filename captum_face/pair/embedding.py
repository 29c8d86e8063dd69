"""Scores of many pairs, each different image embedded once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from captum_face._validation import require_positive_int
from captum_face.pair.passes import default_batch_size
from captum_face.pair.similarity import PairSimilarity

__all__ = ["digest", "scored"]


def scored(
    pair: PairSimilarity, pairs: Any, batch_size: int | None, flip: bool, show_progress: bool
) -> tuple[Tensor, list[Any]]:
    """Scores ``(N,)`` and labels of all pairs."""
    if not isinstance(pair, PairSimilarity):
        raise TypeError(f"expected pair as a PairSimilarity, got {type(pair).__name__}")
    weight = next((p for p in pair.parameters() if p.is_floating_point()), None)
    if batch_size is None:
        batch_size = default_batch_size(torch.device("cpu") if weight is None else weight.device)
    require_positive_int(batch_size, "batch_size")
    rows: dict[Hashable, int] = {}
    members: list[list[int]] = []
    labels: list[Any] = []
    waiting: list[Tensor] = []
    embeddings: list[Tensor] = []

    def embed() -> None:
        batch = _stacked(waiting)
        if weight is not None:
            batch = batch.to(weight)
        embedded = pair.embed(batch)
        if flip:
            embedded = embedded + pair.embed(batch.flip(-1))
        embeddings.append(embedded.cpu())
        waiting.clear()

    with pair.frozen(), torch.no_grad(), tqdm(desc="Embedding", disable=not show_progress) as bar:
        for images, same in _entries(pairs):
            for key, load in images:
                if key not in rows:
                    rows[key] = len(rows)
                    waiting.append(load())
                    bar.update()
                if len(waiting) == batch_size:
                    embed()
            members.append([rows[key] for key, _ in images])
            labels.append(same.item() if isinstance(same, Tensor) else same)
        if not members:
            raise ValueError("expected at least one pair, got none")
        if waiting:
            embed()
        first, second = torch.tensor(members).T
        table = torch.cat(embeddings)
        # In chunks: a million pairs of 512 channels are 2 GB.
        scores = [
            pair.contributions(table[a], table[b]).sum(-1)
            for a, b in zip(first.split(4096), second.split(4096), strict=True)
        ]
    return torch.cat(scores), labels


def _entries(pairs: Any) -> Iterator[tuple[list[tuple[Hashable, Callable[[], Tensor]]], Any]]:
    """For each pair a key and a loader of both its images, and its label."""
    if hasattr(pairs, "names") and hasattr(pairs, "image"):
        for names, same in zip(pairs.names, pairs.same, strict=True):
            yield [(name, partial(pairs.image, name)) for name in names], bool(same)
        return
    if isinstance(pairs, tuple) and len(pairs) == 3 and all(getattr(p, "ndim", 0) == 4 for p in pairs[:2]):
        pairs = list(zip(*pairs, strict=True))
    try:
        count = len(pairs)
    except TypeError as error:
        raise TypeError(
            f"expected pairs as FacePairs or a sequence of (image_a, image_b, same), got {pairs!r}"
        ) from error
    for index in range(count):
        entry = pairs[index]
        if (
            not isinstance(entry, (tuple, list))
            or len(entry) != 3
            or not all(isinstance(image, Tensor) and image.ndim == 3 for image in entry[:2])
        ):
            raise TypeError(
                "expected pairs as a sequence of (image_a, image_b, same) with images as tensors (C, H, W), "
                f"got another at index {index}"
            )
        yield [(digest(image), partial(torch.clone, image)) for image in entry[:2]], entry[2]


def digest(image: Tensor) -> Hashable:
    """Equal for equal images ``(C, H, W)``."""
    data = image.detach().cpu().contiguous().view(torch.uint8).numpy()
    return tuple(image.shape), image.dtype, hashlib.sha256(data.tobytes()).digest()


def _stacked(images: list[Tensor]) -> Tensor:
    shapes = {tuple(image.shape) for image in images}
    if len(shapes) > 1:
        raise ValueError(f"expected images of one size (C, H, W), got {sorted(shapes)}")
    return torch.stack(images)
