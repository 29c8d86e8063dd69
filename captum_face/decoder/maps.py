"""Decoder channel maps: what changes in the drawn face when the embedding loses a channel."""

from __future__ import annotations

from collections.abc import Hashable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from captum_face._validation import require_choice
from captum_face.decoder.network import FaceDecoder, decode
from captum_face.engines.channels import ChannelMaps
from captum_face.pair.passes import BatchSize, cheapest_batch_size, default_batch_size, require_batch_size
from captum_face.pair.scores import unit

__all__ = ["decoder_channel_maps", "decoder_channel_maps_chunked"]

#: What a removed channel becomes.
REMOVALS = ("zero", "mean")
#: Pictures in one pass that were measured to be cheapest, kept as long as the decoder lives.
_MEASURED: WeakKeyDictionary[FaceDecoder, dict[Hashable, int]] = WeakKeyDictionary()


def decoder_channel_maps_chunked(
    decoder: FaceDecoder,
    embedding: Tensor,
    *,
    removal: str = "zero",
    directions: Tensor | None = None,
    normalize: bool = True,
    internal_batch_size: BatchSize = None,
) -> ChannelMaps:
    r"""Yields the maps of one face's channels, some channels at a time.

    The counterpart of :func:`captum_face.engines.channels.gradient_channel_maps_chunked`. With the decoder g
    and the unit embedding f, the map of channel k is the mean over colour of
    :math:`|g(f) - g(f^{\setminus k})|`, divided by its L2 norm; :math:`f^{\setminus k}` is f with channel k
    set to zero or to its mean over the faces that the decoder was trained on, and scaled back to unit
    length, as the decoder knows no other.

    Args:
        decoder: The decoder.
        embedding: One face's embedding ``(1, D)``, of any length.
        removal: ``"zero"`` or ``"mean"``.
        directions: Unit vectors ``(K, D)`` to remove instead of single channels; None for all D channels.
        normalize: Divide each map by its L2 norm. False leaves it in units of the images: 0.1 is a tenth
            of the way from black to white.
        internal_batch_size: Pictures drawn at once. None for what suits the device; ``"auto"`` for what is
            measured to be cheapest, once for a decoder.

    Yields:
        ``(part, maps)``: a slice of the channels, and their maps ``(len, H, W)``, 0 or more; all zero for a
        channel that draws nothing.

    Cost: D + 1 forward passes of the decoder, none of the model. The first ``"auto"`` draws up to 16 times
    the default's pictures more.

    Raises:
        ValueError: an unknown removal, more than one embedding, directions of another D.
    """
    require_choice(removal, REMOVALS, "removal")
    if embedding.ndim != 2 or len(embedding) != 1:
        raise ValueError(f"expected one embedding (1, D), got {tuple(embedding.shape)}")
    require_batch_size(internal_batch_size, "internal_batch_size")
    f = unit(embedding.detach().to(decoder.mean))
    face = decode(decoder, f)
    basis = torch.eye(f.shape[1]).to(f) if directions is None else directions.to(f)
    if basis.ndim != 2 or basis.shape[1] != f.shape[1]:
        raise ValueError(f"expected directions (K, {f.shape[1]}), got {tuple(basis.shape)}")
    centre = decoder.mean if removal == "mean" else torch.zeros_like(decoder.mean)
    size = _pictures_per_pass(internal_batch_size, decoder, f)
    for start in range(0, len(basis), size):
        part = slice(start, min(start + size, len(basis)))
        u = basis[part]
        without = f - ((f - centre) @ u.T).T * u
        maps = (face - decode(decoder, without)).abs().mean(1)
        if normalize:
            norms = maps.flatten(1).norm(dim=1)[:, None, None]
            maps = maps / norms.where(norms > 0, 1)
        yield part, maps


def _pictures_per_pass(size: BatchSize, decoder: FaceDecoder, embedding: Tensor) -> int:
    """How many pictures a decoder draws at once, for what a caller gave."""
    if isinstance(size, int):
        return size
    device, rule = embedding.device, 4 * default_batch_size(embedding.device)
    if size is None:
        return rule
    known = _MEASURED.setdefault(decoder, {})
    key = device, embedding.dtype, torch.get_num_threads()
    if key not in known:
        known[key] = cheapest_batch_size(lambda n: decode(decoder, embedding.expand(n, -1)), device, rule)
    return known[key]


def decoder_channel_maps(
    decoder: FaceDecoder,
    embedding: Tensor,
    *,
    removal: str = "zero",
    directions: Tensor | None = None,
    normalize: bool = True,
    internal_batch_size: BatchSize = None,
) -> Tensor:
    """All maps ``(D, H, W)`` of one face at once; see :func:`decoder_channel_maps_chunked`.

    Example::

        >>> maps = decoder_channel_maps(FaceDecoder(5, (18, 14), width=8), torch.randn(1, 5))
        >>> maps.shape
        torch.Size([5, 18, 14])
    """
    chunks = decoder_channel_maps_chunked(
        decoder,
        embedding,
        removal=removal,
        directions=directions,
        normalize=normalize,
        internal_batch_size=internal_batch_size,
    )
    return torch.cat([maps for _, maps in chunks])
