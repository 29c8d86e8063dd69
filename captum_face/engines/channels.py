"""Channel maps: where in an image each embedding channel looks.

Every feature-guided method is a weighted sum of such maps, ``weights (K, D) @ maps (D, H W)``. The maps
depend on one image alone; partners enter through the weights, so that one image against K partners costs
one image's maps and a small matrix product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from captum_face._validation import not_differentiable, require_choice, require_images
from captum_face.pair.passes import BatchSize, is_out_of_memory, require_batch_size
from captum_face.pair.scores import unit
from captum_face.pair.similarity import PairSimilarity
from captum_face.pair.speed import accelerated, differentiable_embeddings, images_per_pass

__all__ = [
    "ChannelMaps",
    "gradient_channel_maps",
    "gradient_channel_maps_chunked",
    "heaviest_channels",
    "require_gradient_options",
    "weighted_channel_maps",
]

#: Maps of some channels at a time, as a slice of the channels and their maps ``(len, H, W)``.
ChannelMaps = Iterator[tuple[slice, Tensor]]

_EMBEDDINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "normalized": unit,
    "raw": lambda embeddings: embeddings,
}
_GRADIENTS: dict[str, Callable[[Tensor], Tensor]] = {
    "absolute": torch.abs,
    "signed": lambda gradient: gradient,
}


def gradient_channel_maps_chunked(
    pair: PairSimilarity,
    image: Tensor,
    *,
    gradient: str = "absolute",
    embedding: str = "normalized",
    channels: Tensor | None = None,
    internal_batch_size: BatchSize = None,
) -> ChannelMaps:
    r"""Yields FGGB's channel maps some channels at a time, so that memory does not grow with D.

    With :math:`G_k = \partial f_k / \partial I`, the map of channel k is the mean over colour of
    :math:`|G_k|`, divided by its L2 norm (Lu, Xu and Ebrahimi, FG 2024, arXiv 2403.04549).

    The image is replicated once per channel of a chunk and goes forward once; each chunk is one backward
    pass through that same graph, in which replica i answers for the chunk's channel i.

    Args:
        pair: The pair wrapper; call this inside ``pair.frozen()``.
        image: One image ``(1, C, H, W)`` in [0, 1].
        gradient: ``"absolute"`` as published, or ``"signed"``: the mean over colour keeps the sign.
        embedding: Differentiate the ``"normalized"`` embedding as published, or the ``"raw"`` one.
        channels: Which channels, int64 ``(n,)``, as from :func:`heaviest_channels`; None for all D.
        internal_batch_size: Channels in one backward pass; memory grows with it. None for
            what suits the device: 4 for each thread of a CPU (16 in bfloat16), 64 elsewhere; ``"auto"`` for
            what is measured to be cheapest, see :func:`~captum_face.pair.speed.images_per_pass`. Half as many
            from where memory runs out.

    Yields:
        ``(part, maps)``: a slice of the channels asked for, and their maps ``(len, H, W)``, each of unit L2
        norm, or all zero where the channel has no gradient.

    Cost: ``internal_batch_size`` forward passes of one image, and a backward pass for each channel, for the
    input alone.

    Raises:
        ValueError: an unknown option, more than one image, gradients that are NaN or infinite.
        TypeError: a model that cannot be differentiated.
    """
    require_gradient_options(gradient, embedding, internal_batch_size)
    transform, rectify = _EMBEDDINGS[embedding], _GRADIENTS[gradient]
    if len(require_images(image)) != 1:
        raise ValueError(f"expected one image (1, C, H, W), got {tuple(image.shape)}")
    pair = accelerated(pair, image)
    limit = images_per_pass(internal_batch_size, pair, image, backward=True)
    if channels is None:
        with torch.no_grad():
            channels = torch.arange(pair.embed(image.detach()).shape[1])
    wanted = channels.cpu()
    # Equal chunks: at most one replica is idle in each pass.
    passes = -(-len(wanted) // limit)
    size = -(-len(wanted) // passes)
    graph: tuple[Tensor, Tensor] | None = None
    start = 0
    while start < len(wanted):
        part = slice(start, min(start + size, len(wanted)))
        try:
            if graph is None:
                graph = _replicated(pair, image, size, transform)
            gradients = _channel_gradients(*graph, wanted[part], retain_graph=part.stop < len(wanted))
        except (RuntimeError, MemoryError) as error:
            if size == 1 or not is_out_of_memory(error):
                raise
            # Tried again below, where the error no longer holds on to what was computed.
            graph, size = None, size // 2
            continue
        if not torch.isfinite(gradients).all():
            raise ValueError(
                "expected finite gradients, got NaN or infinite ones in channels "
                f"{wanted[start]} to {wanted[part.stop - 1]}"
            )
        maps = rectify(gradients).mean(1)
        norms = maps.flatten(1).norm(dim=1)[:, None, None]
        yield part, maps / norms.where(norms > 0, 1)
        start = part.stop


def _channel_gradients(
    replicas: Tensor, embeddings: Tensor, channels: Tensor, *, retain_graph: bool
) -> Tensor:
    """Gradients ``(n, C, H, W)`` of n channels: replica i answers for channel i."""
    count = len(channels)
    seeds = torch.zeros_like(embeddings)
    seeds[range(count), channels.tolist()] = 1
    with torch.inference_mode(False):
        (gradients,) = torch.autograd.grad(
            embeddings, replicas, seeds, retain_graph=retain_graph, allow_unused=True
        )
    if gradients is None:
        raise not_differentiable()
    return gradients[:count]


def heaviest_channels(weights: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
    """The channels that a weighted sum of maps cannot do without, and the most that the others are worth.

    Channels are left out, the lightest first, as long as the absolute weights of those left out sum to at
    most ``tolerance`` of the sum over all. The maps have unit L2 norm, so that sum bounds the L2 norm of
    the error. Where several partners share the maps, a channel counts as its largest share for any of
    them, and is left out only while the sums of all partners allow it.

    Args:
        weights: ``(K, D)``, a row for each partner.
        tolerance: From 0, which leaves out channels of weight 0 alone, to less than 1.

    Returns:
        ``(channels, bound)``: int64 ``(n,)`` in ascending order, at least one of them, on the CPU; and
        ``(K,)`` double, the sum of the absolute weights left out for each partner.

    Example::

        >>> heaviest_channels(torch.tensor([[0.5, -0.05, 0.3, 0.15]]), tolerance=0.2)
        (tensor([0, 2]), tensor([0.2000], dtype=torch.float64))
    """
    sizes = weights.detach().double().cpu().abs()
    total = sizes.sum(1, keepdim=True)
    shares = sizes / total.where(total > 0, 1)
    order = shares.amax(0).argsort(stable=True)
    # A little more, so that the rounding of weights in single precision does not cost a channel.
    light = (shares[:, order].cumsum(1) <= tolerance * (1 + 1e-6)).all(0)
    count = min(int(light.sum()), len(order) - 1)
    return order[count:].sort().values, sizes[:, order[:count]].sum(1)


def require_gradient_options(gradient: str, embedding: str, internal_batch_size: BatchSize) -> None:
    """Checks the options of :func:`gradient_channel_maps_chunked` before anything is computed."""
    require_choice(gradient, _GRADIENTS, "gradient option")
    require_choice(embedding, _EMBEDDINGS, "embedding option")
    require_batch_size(internal_batch_size, "internal_batch_size")


def gradient_channel_maps(pair: PairSimilarity, image: Tensor, **options: Any) -> Tensor:
    """All channel maps ``(D, H, W)`` of one image at once; see :func:`gradient_channel_maps_chunked`.

    Example::

        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 5))
        >>> maps = gradient_channel_maps(PairSimilarity(model), torch.rand(1, 3, 8, 8))
        >>> maps.shape, bool(torch.allclose(maps.flatten(1).norm(dim=1), torch.ones(5)))
        (torch.Size([5, 8, 8]), True)
    """
    with pair.frozen():
        return torch.cat([maps for _, maps in gradient_channel_maps_chunked(pair, image, **options)])


def weighted_channel_maps(
    chunks: ChannelMaps,
    weights: Tensor,
    progress: Callable[[int], object] | None = None,
) -> Tensor:
    """``weights @ maps`` without ever holding all maps.

    Args:
        chunks: As :func:`gradient_channel_maps_chunked` yields them.
        weights: ``(K, n)``, a row for each partner, of the n channels that the chunks cover.
        progress: Called with the number of channels done after each chunk.

    Returns:
        ``(K, H, W)``.
    """
    total: Tensor | None = None
    for part, maps in chunks:
        share = torch.einsum("kd,dhw->khw", weights[:, part].to(maps.dtype), maps)
        total = share if total is None else total + share
        if progress is not None:
            progress(len(maps))
    assert total is not None  # an embedding has at least one channel
    return total


def _replicated(
    pair: PairSimilarity, image: Tensor, size: int, transform: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Replicas of an image, and their transformed embeddings as a function of them.

    A CPU goes backward through convolutions faster where channels lie next to each other. The values
    are the same, but a network that flattens its features by ``.view`` cannot take that layout.
    """
    layouts = [torch.channels_last] if image.device.type == "cpu" else []
    for layout in (*layouts, torch.contiguous_format):
        # Methods are called under no_grad (NoiseTunnel) and inference_mode; both end here.
        with torch.inference_mode(False), torch.enable_grad():
            replicas = image.detach().expand(size, -1, -1, -1).clone(memory_format=layout).requires_grad_()
            try:
                return replicas, transform(differentiable_embeddings(pair, replicas))
            except RuntimeError as error:
                if layout is torch.contiguous_format or "view" not in str(error):
                    raise
    raise AssertionError("the last layout returns or raises")
