"""HiResCAM for pairs: Grad-CAM without the mean over places."""

from __future__ import annotations

import captum.attr
from torch import Tensor, nn

from captum_face.attr.base import on_sides
from captum_face.attr.layer_gradcam import _LastFeatures
from captum_face.attr.registry import method
from captum_face.engines.sides import Sides

__all__ = ["PairHiResCam"]


@method(
    "hirescam",
    display="HiResCAM",
    family="gradient",
    source="arXiv 2011.08891",
    passes="2 backward, 5 forward",
    needs="gradients",
)
class PairHiResCam(_LastFeatures):
    r"""HiResCAM (Draelos and Carin 2020, arXiv 2011.08891).

    The feature maps :math:`F_c` of a late layer, each place weighted with its own gradient of the score,
    summed and upsampled to the image:

    .. math:: S_A = \operatorname{upsample} \sum_c \frac{\partial s}{\partial F_c} \odot F_c

    On a network whose layers behind that one are linear the feature map's values sum to the score, up to
    biases, where Grad-CAM's mean over places holds only if the head averages.

    That the length of the embedding is held fixed, and which layer is taken, are ours.
    """

    @on_sides
    def attribute(
        self,
        sides: Sides,
        *,
        layer: str | nn.Module | None = None,
        fixed_length: bool = True,
        relu: bool = False,
    ) -> tuple[Tensor, ...]:
        """Signed maps of both images, as :class:`~captum_face.PairAttribution` says.

        Args:
            layer: The layer, as a module of the model or by its name in ``model.named_modules()``; its
                output must be ``(N, C, h, w)``. None for the one that
                :func:`~captum_face.attr.layer_gradcam.last_feature_layer` finds.
            fixed_length: Hold the length of the embedding fixed as it is differentiated. Otherwise the
                gradient of the cosine is orthogonal to the embedding, the evidence of the feature maps
                cancels, and the sign of what is left is chance. No other score knows the difference.
            relu: Keep positive values alone, which leaves no evidence against a match.

        Returns:
            ``(attr_a, attr_b)``: one value per pixel, repeated over the channels, as coarse as the layer:
            a cell's share of the score, spread over pixels by interpolation without a unit.
            Deterministic.

        Cost: for each image and partner one forward pass and a backward pass as far as the layer, a
        forward pass for the partner, and one more to find the layer.

        Raises:
            TypeError: ``forward_func`` is not a :class:`~captum_face.PairSimilarity`, or its model cannot
                be differentiated.
            ValueError: bad images; a layer that is not in the model, does not run or has no spatial
                output; a model without convolutions.
        """
        return self._on_last_features(sides, _HiResCam, layer=layer, fixed_length=fixed_length, relu=relu)


class _HiResCam(captum.attr.LayerGradientXActivation):
    """Feature maps times their gradients, summed over channels."""

    def attribute(self, inputs: Tensor, *, relu_attributions: bool = False) -> Tensor:
        cam = super().attribute.__wrapped__(self, inputs).sum(1, keepdim=True)
        return cam.clamp(min=0) if relu_attributions else cam
