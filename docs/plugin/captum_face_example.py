"""An example of a plug-in: after ``pip install`` its names work everywhere in captum_face."""

from __future__ import annotations

import torch
from torch import Tensor

from captum_face.attr import PairAttribution, method, on_sides
from captum_face.benchmark import Case, Measured, Metric
from captum_face.engines.masks import with_intact
from captum_face.engines.sides import Sides
from captum_face.pair.scores import Score


@method(
    "band_occlusion",
    family="occlusion",
    source="the example plug-in",
    passes="2 n_bands + 4 forward",
)
class BandOcclusion(PairAttribution):
    """The drop of the score when a horizontal band of the face is black."""

    @on_sides
    def attribute(
        self, sides: Sides, *, n_bands: int = 8, perturbations_per_eval: int | None = None
    ) -> tuple[Tensor, ...]:
        """Signed maps of both images, in units of score: positive where hiding the band lowers it.

        Args:
            n_bands: Bands of equal height from the top to the bottom of the image.
            perturbations_per_eval: Masked images in one forward pass; None for what suits the device.
        """
        height, width = sides.size
        band = torch.arange(height) * n_bands // height
        hidden = (band == torch.arange(n_bands)[:, None])[:, :, None].expand(-1, -1, width)

        def drop(scores: Tensor) -> Tensor:
            return torch.einsum("kn,nhw->khw", scores[:, :1] - scores[:, 1:], hidden.to(scores))

        return sides.explain_by_masks(with_intact(~hidden), drop)


def _central_mass(case: Case) -> Measured:
    """The share of image A's evidence for a match that lies in the middle quarter of the image."""
    evidence = case.maps[0].mean(1).clamp(min=0)
    height, width = (side // 4 for side in evidence.shape[-2:])
    middle = evidence[..., height:-height, width:-width]
    return Measured(float(middle.sum() / evidence.sum().clamp(min=1e-12)))


CENTRAL_MASS = Metric(
    name="central_mass",
    asks="How much of the similarity map lies in the middle of the image?",
    better="higher",
    subset="genuine",
    statistic="share of the mass",
    measure=_central_mass,
    order="similar",
)


class Manhattan(Score):
    """Negative Manhattan distance of the embeddings; at most 0."""

    name = "manhattan"
    limits = (-float("inf"), 0.0)

    def compare(self, emb_a: Tensor, emb_b: Tensor) -> Tensor:
        """Each channel's share of the score."""
        return -(emb_a - emb_b).abs()
