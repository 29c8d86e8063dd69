"""One probe against a gallery: what depends on the probe alone is computed once for all of it."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from captum_face._validation import require_pair, require_positive_int
from captum_face.attr.base import PairAttribution
from captum_face.pair.embedding import embed_gallery, gallery_scores, require_embeddings
from captum_face.pair.similarity import PairSimilarity

__all__ = ["GalleryAttributions", "attribute_gallery"]


@dataclass(frozen=True, eq=False)  # tensors have no single answer to ==
class GalleryAttributions:
    """A probe's maps against gallery images; made by :func:`attribute_gallery`."""

    #: ``(k, C, H, W)``: the probe's map against each of the images; positive = for the same person
    attributions: Tensor
    indices: Tensor  #: ``(k,)`` int64: which images of the gallery these are
    scores: Tensor  #: ``(k,)``: the probe's score against each of them
    #: What to say of how the maps came about, by topic, as in :class:`~captum_face.DetailedAttributions`
    remarks: dict[str, str] = field(default_factory=dict)


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
        gallery_embeddings: ``(K, D)`` from :func:`~captum_face.pair.embedding.embed_gallery`, where a
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
    if options.get("return_convergence_delta"):
        raise ValueError(
            "expected options that leave attribute()'s answer a pair of maps, got "
            "return_convergence_delta; call attribute() itself for what else it returns"
        )
    if gallery_embeddings is not None:
        require_embeddings(gallery_embeddings, len(gallery))
    with pair.frozen(), torch.inference_mode(False), torch.no_grad():
        if gallery_embeddings is None:
            size = options.get(method.batch_option() or "")
            progress = bool(options.get("show_progress", False))
            gallery_embeddings = embed_gallery(pair, gallery, batch_size=size, show_progress=progress)
        own = pair.embed(probe)
        require_embeddings(gallery_embeddings, len(gallery), own.shape[1])
        scores = gallery_scores(pair, own, gallery_embeddings.to(probe.device))[0]
        indices = torch.arange(len(gallery), device=scores.device)
        if top_k is not None:
            indices = scores.argsort(descending=True, stable=True)[:top_k]
            options = select_baselines(method, options, indices, len(gallery))
            gallery, gallery_embeddings = gallery[indices], gallery_embeddings[indices]
    maps, remarks = method.probe_with_remarks(
        (probe, gallery), partner_embeddings=gallery_embeddings.to(probe.device), **options
    )
    return GalleryAttributions(maps, indices, scores[indices], remarks)


def select_baselines(
    method: PairAttribution, options: dict[str, Any], rows: Tensor, n: int
) -> dict[str, Any]:
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
