"""Many images read and embedded: galleries, and the pairs of a list, each different image once."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from captum_face._progress import progress_bar
from captum_face._validation import require_positive_int
from captum_face.pair.passes import BatchSize, default_batch_size, digest, in_passes, require_batch_size
from captum_face.pair.similarity import PairSimilarity
from captum_face.pair.speed import accelerated, images_per_pass

__all__ = [
    "device_of",
    "embed_gallery",
    "embed_once",
    "gallery_scores",
    "read_ahead",
    "read_images",
    "require_embeddings",
    "scored",
]

Item = TypeVar("Item")
Read = TypeVar("Read")

_CHUNK = 2**24
"""Values in one product of embeddings, 64 MB: all probes against all of a large gallery would not fit."""


def device_of(pair: PairSimilarity) -> torch.device:
    """Where the model lies; the CPU for one without parameters."""
    return next(pair.parameters(), torch.empty(0)).device


def read_ahead(read: Callable[[Item], Read], items: Sequence[Item]) -> Iterator[tuple[Item, Read]]:
    """Each item with what is read for it, while the next one's is read in a thread."""
    with ThreadPoolExecutor(max_workers=1) as reader:
        upcoming = [reader.submit(read, item) for item in items[:1]]
        for place, item in enumerate(items):
            result = upcoming.pop().result()
            upcoming += [reader.submit(read, following) for following in items[place + 1 : place + 2]]
            yield item, result


def read_images(
    load: Callable[[str], Tensor], names: Sequence[str], size: int
) -> Iterator[tuple[dict[str, Tensor], dict[str, str]]]:
    """Images by name, and why others could not be read: ``size`` names at a time, the next in a thread."""

    def read(chunk: Sequence[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
        images: dict[str, Tensor] = {}
        unreadable: dict[str, str] = {}
        for name in chunk:
            try:
                images[name] = load(name)
            except (OSError, ValueError) as error:
                unreadable[name] = str(error)
        return images, unreadable

    chunks = [names[start : start + size] for start in range(0, len(names), size)]
    for _, found in read_ahead(read, chunks):
        yield found


def embed_gallery(
    pair: PairSimilarity, gallery: Tensor, *, batch_size: BatchSize = None, show_progress: bool = False
) -> Tensor:
    """Embeddings ``(K, D)`` of a gallery ``(K, C, H, W)``, some images at a time and without gradients.

    Args:
        pair: The model.
        gallery: ``(K, C, H, W)`` in [0, 1].
        batch_size: Images in one forward pass; None for what suits the device, ``"auto"`` for what is
            measured to be cheapest.
        show_progress: Show a progress bar over the images.

    Cost: K forward passes, and two more on a CPU: see :mod:`captum_face.pair.speed`.

    Raises:
        TypeError, ValueError: as :meth:`PairSimilarity.embed <captum_face.PairSimilarity.embed>`; a batch
            size below 1.
    """
    require_batch_size(batch_size, "batch_size")
    parts: list[Tensor] = []
    with (
        pair.frozen(),
        torch.inference_mode(False),
        torch.no_grad(),
        progress_bar(total=len(gallery), desc="gallery", disable=not show_progress) as bar,
    ):
        quick = accelerated(pair, gallery[:1])
        for part in in_passes(quick.embed, gallery, images_per_pass(batch_size, quick, gallery[:1])):
            parts.append(part)
            bar.update(len(part))
    return torch.cat(parts)


def embed_once(pair: PairSimilarity, images: Tensor, size: int, known: dict[Hashable, Tensor]) -> Tensor:
    """Embeddings ``(N, D)`` of images ``(N, C, H, W)``; equal ones pass the model once.

    Args:
        pair: The model, frozen and without gradients.
        images: ``(N, C, H, W)`` in [0, 1].
        size: Images in one forward pass.
        known: Embeddings of earlier calls; those of new images are added.
    """
    keys = [digest(image) for image in images]
    new = {key: row for row, key in enumerate(keys) if key not in known}
    if new:
        rows = torch.tensor([*new.values()], device=images.device)
        found = torch.cat([*in_passes(lambda chunk: pair.embed(images[chunk]), rows, size)])
        known.update(zip(new, found, strict=True))
    return torch.stack([known[key] for key in keys])


def gallery_scores(pair: PairSimilarity, probes: Tensor, gallery: Tensor) -> Tensor:
    """Scores ``(P, K)`` of probes' embeddings ``(P, D)`` against a gallery's ``(K, D)``.

    Cost: no pass through the model.
    """
    size = max(1, _CHUNK // max(1, probes.numel()))
    return torch.cat(
        [pair.contributions(probes[:, None], part[None]).sum(-1) for part in gallery.split(size)], dim=1
    )


def require_embeddings(embeddings: object, n: int, dimensions: int | None = None) -> Tensor:
    """Returns a gallery's embeddings if they are a tensor ``(n, D)``.

    Args:
        embeddings: What a caller gave.
        n: Images in the gallery.
        dimensions: D of the model, where it is known.

    Raises:
        TypeError: no tensor of floats.
        ValueError: of another shape.
    """
    if not isinstance(embeddings, Tensor) or not embeddings.is_floating_point():
        came = str(embeddings.dtype) if isinstance(embeddings, Tensor) else type(embeddings).__name__
        raise TypeError(f"expected gallery_embeddings as a torch.Tensor of floats ({n}, D), got {came}")
    if embeddings.ndim != 2 or len(embeddings) != n or dimensions not in (None, embeddings.shape[1]):
        raise ValueError(
            f"expected gallery_embeddings ({n}, {dimensions or 'D'}), this model's of each image of the "
            f"gallery, got {tuple(embeddings.shape)}"
        )
    return embeddings


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

    with pair.frozen(), torch.no_grad(), progress_bar(desc="Embedding", disable=not show_progress) as bar:
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


def _stacked(images: list[Tensor]) -> Tensor:
    shapes = {tuple(image.shape) for image in images}
    if len(shapes) > 1:
        raise ValueError(f"expected images of one size (C, H, W), got {sorted(shapes)}")
    return torch.stack(images)
