"""One probe against a gallery: what depends on the probe alone is computed once for all of it."""

from __future__ import annotations

import copy
import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from captum_face._validation import require_pair, require_positive_int
from captum_face.attr._base import PairAttribution, first_side_alone
from captum_face.pair.passes import BatchSize, in_passes, require_batch_size
from captum_face.pair.similarity import PairSimilarity
from captum_face.pair.speed import accelerated, images_per_pass

__all__ = ["GalleryAttributions", "attribute_gallery", "embed_gallery", "gallery_scores"]

_CHUNK = 2**24
"""Values in one product of embeddings, 64 MB: all probes against all of a large gallery would not fit."""


@dataclass(frozen=True, eq=False)  # tensors have no single answer to ==
class GalleryAttributions:
    """A probe's maps against gallery images; made by :func:`attribute_gallery`."""

    #: ``(k, C, H, W)``: the probe's map against each of the images; positive = for the same person
    attributions: Tensor
    indices: Tensor  #: ``(k,)`` int64: which images of the gallery these are
    scores: Tensor  #: ``(k,)``: the probe's score against each of them


def attribute_gallery(
    method: PairAttribution,
    probe: Tensor,
    gallery: Tensor,
    /,  # methods have options of any name, integrated gradients one called method
    top_k: int | None = None,
    *,
    gallery_embeddings: Tensor | None = None,
    **options: Any,
) -> GalleryAttributions:
    """The probe's attributions against each image of a gallery, or against the best of them.

    The same as ``method.attribute((probe, gallery[i : i + 1]), **options)[0]`` for each image i. But
    gallery images are only embedded, never explained, and what a method computes from the probe alone is
    computed once.

    Args:
        method: A method on a :class:`~captum_face.PairSimilarity`: ``FGGB(pair)``.
        probe: ``(1, C, H, W)`` in [0, 1].
        gallery: ``(K, C, H, W)`` in [0, 1].
        top_k: Explain only so many images, those of the best scores; None for all. More than K are K.
        gallery_embeddings: ``(K, D)`` from :func:`~captum_face.results.gallery.embed_gallery`, where a
            gallery is searched often.
        options: Options of the method's ``attribute``; ``baselines`` of K images are one for each of the
            gallery. ``internal_batch_size`` or ``perturbations_per_eval`` bounds the gallery images in one
            pass, too, and ``show_progress`` also shows a bar over them.

    Returns:
        :class:`GalleryAttributions`, in the order of the gallery; with ``top_k`` the best score first,
        and of equal scores the first in the gallery.

    Cost: K forward passes for the gallery, none with ``gallery_embeddings``, and one for the probe. Then
    for the methods of channel maps and masks (FGGB, CorrRISE, RISE, occlusion, feature ablation, xFace
    with ``variant="single"``) what explaining one side of one pair costs, whatever k is. Methods that
    follow the score itself back (xSSAB, LRP, Captum's gradients) cost as much for each of the k partners.
    xFace's other variants embed every occlusion of each of the k partners, as they are defined by them.
    :class:`~captum_face.BiLRP` needs for each partner what its channels' relevance sums to: see there.
    Memory: embeddings ``(K, D)``, maps ``(k, C, H, W)``, and for masks scores ``(k, n_masks)``.

    Raises:
        TypeError: not a method of this package on a :class:`~captum_face.PairSimilarity`; images that are
            not tensors; an option that the method lacks.
        ValueError: more than one probe, images or embeddings that do not fit, ``top_k`` below 1, an option
            that changes what ``attribute`` returns.

    Example::

        >>> from captum_face import CorrRISE, PairSimilarity
        >>> pair = PairSimilarity(lambda images: images.mean((2, 3)))
        >>> probe, gallery = torch.rand(1, 3, 20, 20), torch.rand(50, 3, 20, 20)
        >>> found = attribute_gallery(CorrRISE(pair), probe, gallery, top_k=3, n_masks=40, seed=0)
        >>> found.attributions.shape, bool((found.scores.diff() <= 0).all())
        (torch.Size([3, 3, 20, 20]), True)
    """
    pair = _require_method(method)
    probe, gallery = (images.detach() for images in require_pair((probe, gallery)))
    if len(probe) != 1:
        raise ValueError(f"expected one probe (1, C, H, W), got {tuple(probe.shape)}; give them one by one")
    if top_k is not None:
        require_positive_int(top_k, "top_k")
    # An option that the method lacks: here, before the gallery is embedded.
    inspect.signature(method.attribute).bind((probe, gallery), **options)
    require_maps_alone(options)
    if gallery_embeddings is not None:
        require_embeddings(gallery_embeddings, len(gallery))
    with pair.frozen(), torch.inference_mode(False), torch.no_grad():
        if gallery_embeddings is None:
            # Whatever the method calls the images in one pass.
            size = options.get("internal_batch_size", options.get("perturbations_per_eval"))
            progress = bool(options.get("show_progress", False))
            gallery_embeddings = embed_gallery(pair, gallery, batch_size=size, show_progress=progress)
        own = pair.embed(probe)
        require_embeddings(gallery_embeddings, len(gallery), own.shape[1])
        scores = gallery_scores(pair, own, gallery_embeddings.to(probe.device))[0]
        indices = torch.arange(len(gallery), device=scores.device)
        if top_k is not None:
            indices = scores.argsort(descending=True, stable=True)[:top_k]
            options = of_rows(method, options, indices, len(gallery))
            gallery, gallery_embeddings = gallery[indices], gallery_embeddings[indices]
    alone = first_side_alone(method)
    alone.forward_func = with_known_embeddings(pair, gallery, gallery_embeddings.to(probe.device))
    attributions, _ = alone.attribute((probe, gallery), **options)
    return GalleryAttributions(attributions, indices, scores[indices])


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
        tqdm(total=len(gallery), desc="gallery", disable=not show_progress) as bar,
    ):
        quick = accelerated(pair, gallery[:1])
        for part in in_passes(quick.embed, gallery, images_per_pass(batch_size, quick, gallery[:1])):
            parts.append(part)
            bar.update(len(part))
    return torch.cat(parts)


def gallery_scores(pair: PairSimilarity, probes: Tensor, gallery: Tensor) -> Tensor:
    """Scores ``(P, K)`` of probes' embeddings ``(P, D)`` against a gallery's ``(K, D)``.

    Cost: no pass through the model.
    """
    size = max(1, _CHUNK // max(1, probes.numel()))
    return torch.cat(
        [pair.contributions(probes[:, None], part[None]).sum(-1) for part in gallery.split(size)], dim=1
    )


def with_known_embeddings(pair: PairSimilarity, gallery: Tensor, embeddings: Tensor) -> PairSimilarity:
    """The same pair wrapper, sharing its modules, that looks the gallery's embeddings up.

    By the images themselves, so that it does not matter who asks for them and when.
    """

    class Known(type(pair)):  # type: ignore[misc]  # a subclass: copies with another model keep it
        def _known(self, images: Tensor) -> bool:
            alike = images.shape == gallery.shape and not images.requires_grad
            return alike and torch.equal(images, gallery)

        def embed(self, images: Tensor) -> Tensor:
            return embeddings if self._known(images) else super().embed(images)

        def embed_in_passes(self, images: Tensor, batch_size: BatchSize = None) -> Tensor:
            return embeddings if self._known(images) else super().embed_in_passes(images, batch_size)

    twin = copy.copy(pair)
    twin.__class__ = Known
    return twin


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


def require_maps_alone(options: dict[str, Any]) -> None:
    """Raises a ValueError if an option makes ``attribute`` return more than two maps."""
    for name in options:
        if name.startswith("return_") and options[name]:
            raise ValueError(
                f"expected options that leave attribute()'s answer a pair of maps, got {name}; call "
                "attribute() itself for what else it returns"
            )


def of_rows(method: PairAttribution, options: dict[str, Any], rows: Tensor, n: int) -> dict[str, Any]:
    """A method's options with the ``baselines`` that belong to some rows of a gallery of ``n`` images."""
    if "baselines" not in options or method.sampled_baselines:
        return options

    def chosen(value: Any) -> Any:
        if isinstance(value, (tuple, list)):
            return tuple(map(chosen, value))
        one_each = isinstance(value, Tensor) and value.ndim == 4 and len(value) == n > 1
        return value[rows.to(value.device)] if one_each else value

    return options | {"baselines": chosen(options["baselines"])}


def _require_method(method: object) -> PairSimilarity:
    if not isinstance(method, PairAttribution):
        came = getattr(method, "__name__", type(method).__name__)
        raise TypeError(f"expected a method of captum_face such as FGGB(pair), got {came}")
    if not isinstance(method.forward_func, PairSimilarity):
        raise TypeError(
            f"expected a method on a PairSimilarity, got one on {type(method.forward_func).__name__}: a "
            "gallery is searched by its embeddings; wrap the model with PairSimilarity(embedding_model)"
        )
    return method.forward_func
