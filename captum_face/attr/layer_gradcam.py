"""Grad-CAM for pairs."""

from __future__ import annotations

import itertools

import captum.attr
import torch
from torch import Tensor, nn

from captum_face.attr.base import on_sides
from captum_face.attr.each_side import _EachSide, require_layer
from captum_face.attr.registry import method
from captum_face.engines.one_image import NormalisedBy, require_differentiable
from captum_face.engines.sides import Sides
from captum_face.pair.scores import unit
from captum_face.pair.similarity import PairSimilarity

__all__ = ["PairGradCam", "last_feature_layer"]

_CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)


class _LastFeatures(_EachSide):
    """What maps of the last feature layer share."""

    def _on_last_features(
        self,
        sides: Sides,
        kind: type[captum.attr.Attribution],
        *,
        layer: str | nn.Module | None,
        fixed_length: bool,
        relu: bool,
    ) -> tuple[Tensor, ...]:
        """Runs a layer's method on each side, at the given layer or at the one that is found."""
        pair, probe = sides.pair, sides.images[0][:1]
        rule = _fixed_length_unit if fixed_length else unit
        chosen = last_feature_layer(pair, probe) if layer is None else _spatial(pair, layer, probe)
        return self._on_each_side(
            sides, lambda score: kind(NormalisedBy(score, rule), chosen), {"relu_attributions": relu}
        )


@method(
    "layer_gradcam",
    display="Grad-CAM",
    family="gradient",
    source="arXiv 1610.02391",
    passes="2 backward, 5 forward",
    needs="gradients",
)
class PairGradCam(_LastFeatures):
    r"""Grad-CAM (Selvaraju et al., ICCV 2017, arXiv 1610.02391).

    :class:`captum.attr.LayerGradCam` on each side: the feature maps :math:`F_c` of a late layer, weighted
    with the mean gradient of the score over each map and summed, then upsampled to the image:

    .. math:: S_A = \operatorname{upsample} \sum_c \left( \operatorname{mean}_p
        \frac{\partial s}{\partial F_{c,p}} \right) F_c

    The mean suits networks that average their feature maps. Most face networks have a weight for each
    place instead, and there :class:`~captum_face.PairHiResCam` is the one to use.

    Which layer is taken, and that the sign stays, are ours.
    """

    @on_sides
    def attribute(
        self,
        sides: Sides,
        *,
        layer: str | nn.Module | None = None,
        fixed_length: bool = False,
        relu: bool = False,
    ) -> tuple[Tensor, ...]:
        """Signed maps of both images, as :class:`~captum_face.PairAttribution` says.

        Args:
            layer: The layer, as a module of the model or by its name in ``model.named_modules()``; its
                output must be ``(N, C, h, w)``. None for the one that
                :func:`~captum_face.attr.layer_gradcam.last_feature_layer` finds.
            fixed_length: Hold the length of the embedding fixed as it is differentiated, which is not as
                published. The gradient of the cosine is orthogonal to the embedding, so that the evidence
                of the feature maps cancels; this keeps it. No other score knows the difference.
            relu: Keep positive values alone, as published, which leaves no evidence against a match.

        Returns:
            ``(attr_a, attr_b)``: one value per pixel, repeated over the channels, without a unit; as
            coarse as the layer. Deterministic.

        Cost: for each image and partner one forward pass and a backward pass as far as the layer, a
        forward pass for the partner, and one more to find the layer.

        Raises:
            TypeError: ``forward_func`` is not a :class:`~captum_face.PairSimilarity`, or its model cannot
                be differentiated.
            ValueError: bad images; a layer that is not in the model, does not run or has no spatial
                output; a model without convolutions.
        """
        return self._on_last_features(
            sides, captum.attr.LayerGradCam, layer=layer, fixed_length=fixed_length, relu=relu
        )


def _fixed_length_unit(embeddings: Tensor) -> Tensor:
    return embeddings / embeddings.detach().norm(dim=1, keepdim=True)


def last_feature_layer(pair: PairSimilarity, image: Tensor) -> nn.Module:
    """The module whose output is the last feature map: what Grad-CAM takes where no layer is named.

    It is found by order of execution, which is not that of registration: the last convolution whose output
    is larger than 1 x 1 (face networks end in convolutions to a single pixel, in which there is nothing to
    see), and from there on as far as outputs keep that shape. Before its BatchNorm, activation and
    shortcut a feature map is not yet what the head sees.

    Args:
        pair: The pair wrapper.
        image: ``(1, C, H, W)``.

    Raises:
        TypeError: there is none, and the model cannot be differentiated.
        ValueError: there is no such convolution.
    """
    with pair.frozen():
        outputs = _outputs(pair, image)
    spatial = [
        i
        for i, (module, shape) in enumerate(outputs)
        if isinstance(module, _CONVOLUTIONS) and len(shape) == 4 and shape[2] * shape[3] > 1
    ]
    if not spatial:
        require_differentiable(pair, image)  # another layer would not do either
        raise ValueError(
            "expected a model with a convolution whose output is larger than 1 x 1, found none that runs; "
            "name a layer with an output (N, C, h, w): layer=..., and give PairSimilarity the nn.Module "
            "itself, as a function around it hides its layers"
        )
    shape = outputs[spatial[-1]][1]
    same = itertools.takewhile(lambda output: output[1] == shape, outputs[spatial[-1] :])
    return [module for module, _ in same][-1]


def _outputs(pair: PairSimilarity, image: Tensor) -> list[tuple[nn.Module, torch.Size]]:
    """Modules in the order in which they finish, with the shapes of their outputs."""
    outputs = []

    def note(module: nn.Module, _: object, output: object) -> None:
        outputs.append((module, output.shape if isinstance(output, Tensor) else torch.Size()))

    visible = (module for module in pair.modules() if not isinstance(module, torch.jit.ScriptModule))
    handles = [module.register_forward_hook(note) for module in visible]
    try:
        with torch.no_grad():
            pair.embed(image)
    finally:
        for handle in handles:
            handle.remove()
    return outputs


def _spatial(pair: PairSimilarity, layer: object, image: Tensor) -> nn.Module:
    """The module that ``layer`` is or names, if it runs and has an output that can be drawn."""
    found = require_layer(pair, layer)
    shapes = [shape for module, shape in _outputs(pair, image) if module is found]
    if not shapes or len(shapes[-1]) != 4:
        came = f"an output of shape {tuple(shapes[-1])}" if shapes else "one that does not run"
        raise ValueError(f"expected a layer with an output (N, C, h, w), got {came}: {layer!r}")
    return found
