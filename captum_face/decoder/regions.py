"""What each embedding channel stands for, and whether decoder, gradients and LRP agree on it."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from captum_face._validation import require_images, require_positive_int
from captum_face.decoder.maps import decoder_channel_maps
from captum_face.decoder.network import FaceDecoder, find_decoder
from captum_face.engines.channels import ChannelMaps, gradient_channel_maps_chunked
from captum_face.maps.regions import face_regions
from captum_face.maps.signed import pixel_map, smooth
from captum_face.pair.passes import BatchSize
from captum_face.pair.scores import unit
from captum_face.pair.similarity import PairSimilarity
from captum_face.photos.landmarks import check_crops

__all__ = ["Agreement", "ChannelRegions", "channel_map_agreement", "channel_regions"]


@dataclass(frozen=True, eq=False)  # tensors have no single answer to ==
class ChannelRegions:
    """Which region of the face each channel draws; made by :func:`channel_regions`."""

    maps: Tensor  #: ``(K, H, W)``: mean change of the pictures without the channel, in units of the images
    shares: Tensor  #: ``(K, R)``: each region's share of the channel's map; rows sum to 1
    areas: Tensor  #: ``(R,)``: each region's share of the image
    regions: tuple[str, ...]  #: names of the R regions
    directions: Tensor | None  #: ``(K, D)`` where principal directions stand for channels

    @property
    def strength(self) -> Tensor:
        """How much the pictures change without the channel, ``(K,)``: mean over the pixels."""
        return self.maps.mean((1, 2))

    @property
    def density(self) -> Tensor:
        """``(K, R)``: share of the map over share of the area; 1 is what a flat map would have."""
        return self.shares / self.areas

    def region(self, channel: int) -> str:
        """The region that a channel draws more densely than any other."""
        return self.regions[int(self.density[channel].argmax())]

    def table(self) -> str:
        """Region by region: its area, its share of all that channels draw, and how many draw it most."""
        total = (self.shares * self.strength[:, None]).sum(0) / self.strength.sum()
        most = self.density.argmax(1).bincount(minlength=len(self.regions))
        lines = [f"{'region':14}{'area':>8}{'drawn':>8}{'density':>9}{'channels':>10}"]
        for name, area, share, count in zip(
            self.regions, self.areas.tolist(), total.tolist(), most.tolist(), strict=True
        ):
            lines.append(f"{name:14}{area:8.1%}{share:8.1%}{share / area:9.2f}{count:10}")
        return "\n".join(lines)


def channel_regions(
    pair: PairSimilarity,
    images: Tensor,
    *,
    decoder: FaceDecoder | str | Path | None = None,
    removal: str = "zero",
    directions: int | None = None,
    internal_batch_size: BatchSize = None,
) -> ChannelRegions:
    """Which region of the face each channel draws.

    Args:
        pair: The model.
        images: Faces ``(N, C, H, W)`` in [0, 1], aligned to the model's template; what the channels draw is
            averaged over them, and shared among the :func:`~captum_face.maps.face_regions` of the template.
        decoder: The model's decoder or the file of one; None for the bundled model's.
        removal: A removed channel becomes ``"zero"`` or its ``"mean"``.
        directions: Look at so many principal directions of the images' embeddings instead of at channels:
            long embeddings have many channels that mean little alone.
        internal_batch_size: Pictures drawn at once: see
            :func:`~captum_face.decoder.decoder_channel_maps_chunked`.

    Cost: N + 1 forward passes of the model and N (D + 1) of the decoder.

    Raises:
        TypeError, ValueError: no decoder for this model; bad images; a model whose alignment is not known;
            more directions than images less one, or than channels.

    Warns:
        UserWarning: more than half of the images do not look like aligned faces.
    """
    require_images(images)
    if pair.template is None:
        raise ValueError(
            "expected a model whose alignment is known, and with it the regions, got a pair with "
            "alignment=None"
        )
    failed = sum(not check.passed for check in check_crops(images, pair.template))
    if 2 * failed > len(images):
        warnings.warn(
            f"{failed} of {len(images)} images do not look like aligned faces, and the names of regions mean "
            f"nothing on such: align them as the model expects ({pair.alignment})",
            UserWarning,
            stacklevel=2,
        )
    with pair.frozen(), torch.no_grad():
        embeddings = unit(pair.embed(images))
        found = find_decoder(pair, decoder, embeddings, images)
    basis = _principal(embeddings, directions) if directions is not None else None
    maps = sum(
        decoder_channel_maps(
            found,
            embedding[None],
            removal=removal,
            directions=basis,
            normalize=False,
            internal_batch_size=internal_batch_size,
        )
        for embedding in embeddings
    ) / len(embeddings)
    assert isinstance(maps, Tensor)  # there is at least one image
    regions = face_regions(pair.template, (images.shape[-2], images.shape[-1]))
    masks = torch.stack(list(regions.values())).to(maps)
    drawn = torch.einsum("khw,rhw->kr", maps, masks)
    shares = drawn / drawn.sum(1, keepdim=True).clamp(min=1e-30)
    return ChannelRegions(maps, shares, masks.mean((1, 2)), tuple(regions), basis)


def _principal(embeddings: Tensor, count: int) -> Tensor:
    require_positive_int(count, "directions")
    most = min(len(embeddings) - 1, embeddings.shape[1])
    if count > most:
        raise ValueError(
            f"expected at most {most} directions of {len(embeddings)} embeddings of "
            f"{embeddings.shape[1]} channels, got {count}; give more images"
        )
    return torch.linalg.svd(embeddings - embeddings.mean(0), full_matrices=False).Vh[:count]


@dataclass(frozen=True)
class Agreement:
    """How far two kinds of channel maps agree: means of Pearson's correlation over pixels."""

    kind: str  #: ``"gradient"`` or ``"lrp"``, what the decoder's maps were compared with
    same: float  #: of the maps of one channel
    other: float  #: of the maps of two different channels, or what faces have in common
    specific: float  #: of the maps of one channel, less the mean map over all channels


def channel_map_agreement(
    pair: PairSimilarity,
    images: Tensor,
    *,
    decoder: FaceDecoder | str | Path | None = None,
    removal: str = "zero",
    kinds: tuple[str, ...] = ("gradient", "lrp"),
    sigma: float = 2.0,
) -> list[Agreement]:
    """Compares decoder channel maps with those of FGGB (gradients) and LRP.

    Args:
        pair: The model; differentiable.
        images: Faces ``(N, C, H, W)`` in [0, 1].
        decoder: The model's decoder or the file of one; None for the bundled model's.
        removal: A removed channel becomes ``"zero"`` or its ``"mean"``.
        kinds: ``"gradient"``: FGGB's maps; ``"lrp"``: absolute relevance, mean over colour, started with one
            unit in the channel (needs the extra ``lrp``).
        sigma: Smooth all maps by a Gaussian of so many pixels first; 0 compares them as they are.

    Cost: for each image D backward passes for gradients, D relevance passes for LRP, and D + 1 forward passes
    of the decoder.

    Raises:
        ImportError, TypeError, ValueError: as for :func:`channel_regions`, FGGB and LRP.
    """
    found: dict[str, list[tuple[float, float, float]]] = {kind: [] for kind in kinds}
    with pair.frozen():
        for image in require_images(images).split(1):
            with torch.no_grad():
                embedding = pair.embed(image)
                drawer = find_decoder(pair, decoder, embedding, image)
            drawn = _flat([(slice(0), decoder_channel_maps(drawer, embedding, removal=removal))], sigma)
            for kind in kinds:
                chunks = _CHUNKED[kind](pair, image)
                found[kind].append(_agreement(drawn, _flat(chunks, sigma)))
    return [
        Agreement(kind, *(sum(values) / len(values) for values in zip(*rows, strict=True)))
        for kind, rows in found.items()
    ]


def _relevance_maps(pair: PairSimilarity, image: Tensor) -> ChannelMaps:
    from captum_face.lrp.propagation import relevance_maps_chunked  # zennit is an extra

    return ((part, pixel_map(maps).abs()) for part, maps in relevance_maps_chunked(pair, image))


_CHUNKED = {"gradient": gradient_channel_maps_chunked, "lrp": _relevance_maps}


def _flat(chunks: Iterable[tuple[slice, Tensor]], sigma: float) -> Tensor:
    return torch.cat([smooth(maps.detach(), sigma).flatten(1).double() for _, maps in chunks])


def _agreement(first: Tensor, second: Tensor) -> tuple[float, float, float]:
    channels = len(first)
    correlations = torch.corrcoef(torch.cat([first, second]))[:channels, channels:].nan_to_num()
    same = correlations.diagonal().mean()
    other = (correlations.sum() - correlations.diagonal().sum()) / (channels * (channels - 1))
    units = [maps / maps.norm(dim=1, keepdim=True).clamp(min=1e-30) for maps in (first, second)]
    apart = torch.corrcoef(torch.cat([maps - maps.mean(0) for maps in units]))[:channels, channels:]
    return float(same), float(other), float(apart.nan_to_num().diagonal().mean())
