"""Ablation of face regions for pairs: the drop of the score when a whole region goes."""

from __future__ import annotations

import torch
from torch import Tensor

from captum_face._validation import Baselines
from captum_face.attr.base import PairAttribution, on_sides
from captum_face.attr.registry import method
from captum_face.data.alignment import SMALLEST
from captum_face.engines.masks import feature_masks, with_intact
from captum_face.engines.sides import Sides
from captum_face.maps.regions import face_regions
from captum_face.pair.passes import BatchSize

__all__ = ["PairFeatureAblation"]


@method("feature_ablation", family="occlusion", source="Captum", passes="2 regions + 4 forward")
class PairFeatureAblation(PairAttribution):
    r"""Ablation of face regions: the drop of the score when a whole region goes.

    .. math:: S_A(p) = s(A, B) - s(A \setminus R(p), B)

    with :math:`R(p)` the region of the pixel.
    """

    @on_sides
    def attribute(
        self,
        sides: Sides,
        *,
        feature_mask: Tensor | None = None,
        baselines: Baselines = 0,
        perturbations_per_eval: BatchSize = None,
    ) -> tuple[Tensor, ...]:
        """Signed maps of both images, as :class:`~captum_face.PairAttribution` says.

        Args:
            feature_mask: Integers ``(H, W)``: pixels of one number go together. None for the
                :func:`~captum_face.maps.face_regions` of the template to which the model's images are
                aligned, and for a grid of 7 by 7 cells where that is not known and on images of less than 28
                pixels.

        Returns:
            ``(attr_a, attr_b)`` in units of score, the same for all pixels of a region. Positive where
            hiding the region lowers the score. Deterministic.

        Cost: for each image a forward pass for each region (14 on a face), one for the intact image and
        one for its partner. An image that stands against N others is hidden once with a
        :class:`~captum_face.PairSimilarity`.

        Raises:
            TypeError: ``forward_func`` does not answer with numbers, or ``feature_mask`` is no tensor of
                integers.
            ValueError: bad images, scores or options.
        """
        features = feature_masks(feature_mask, sides.size, default=_face_labels(sides))

        def drop(scores: Tensor) -> Tensor:
            drops = scores[:, :1] - scores[:, 1:]
            return torch.einsum("kn,nhw->khw", drops, features.to(drops))

        return sides.explain_by_masks(with_intact(~features), drop, baselines=baselines)


def _face_labels(sides: Sides) -> Tensor | None:
    if sides.template is None or min(sides.size) < SMALLEST:
        return None
    return torch.stack(list(face_regions(sides.template, sides.size).values())).int().argmax(0)
