"""Which rule each layer of a face network gets."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from zennit import composites as zennit_composites
from zennit import types
from zennit.composites import SpecialFirstLayerMapComposite
from zennit.core import Composite, Hook
from zennit.layer import Sum
from zennit.rules import Flat, Pass, ReLUGuidedBackprop

from captum_face._validation import require_choice
from captum_face.lrp._layers import ConstantOp, Rescale
from captum_face.lrp.rules import Signed

__all__ = ["COMPOSITES", "face", "resolve_composite"]

#: Names that :func:`resolve_composite` knows: our own, and Zennit's.
COMPOSITES: tuple[str, ...] = (
    "face",
    "epsilon_plus",
    "epsilon_plus_flat",
    "epsilon_alpha2_beta1",
    "epsilon_alpha2_beta1_flat",
    "epsilon_gamma_box",
    "guided_backprop",
    "excitation_backprop",
)

# Layers of canonization that Zennit does not know.
_OWN: list[tuple[Any, Any]] = [((ConstantOp, Rescale), Pass())]
# Zennit's guided backpropagation sees nn.ReLU alone.
_GUIDED: list[tuple[Any, Any]] = [
    ((nn.ReLU6, nn.PReLU, nn.LeakyReLU, nn.Hardtanh), ReLUGuidedBackprop()),
]


def face(gamma: float = 0.5, head: float = 0.2, biases: bool = False) -> Composite:
    """The default composite: conserves all relevance, stays small, and tells places apart.

    * All convolutions but the first, linear layers, sums and means: :class:`~captum_face.lrp.Signed`,
      with the smaller gamma ``head`` in layers with a single place, which decide what about the face an
      embedding channel looks at, and ``gamma`` below, where small ones would add up to noise.
    * The first convolution, and any other that sees the image itself: Zennit's ``Flat``, as the zero of a
      normalised pixel means nothing.
    * Activations: relevance passes.

    Args:
        gamma: How much more contributions count that have the sign of the output, ``math.inf`` for those
            alone. Small values add contrast and noise.
        head: The same for layers with one place.
        biases: Whether biases take their share, which is then lost.
    """
    signed = Signed(gamma, head, biases)
    return _Face(
        layer_map=[
            *_OWN,
            ((types.Activation, nn.modules.batchnorm._BatchNorm), Pass()),
            ((types.Linear, types.AvgPool, Sum), signed),
        ],
        first_map=[(types.Convolution, Flat(stabilizer=1e-12))],
    )


class _Face(SpecialFirstLayerMapComposite):
    """Takes all layers for first ones that see the image: a model may look at it twice, mirrored."""

    def mapping(self, ctx: dict[str, Any], name: str, module: nn.Module) -> Hook | None:
        if getattr(module, "sees_image", False):
            ctx["first_layer_visited"] = False
        return super().mapping(ctx, name, module)


def resolve_composite(
    composite: str | Composite, low: Tensor | None = None, high: Tensor | None = None, biases: bool = False
) -> Composite:
    """Turns a name of :data:`COMPOSITES` into a composite, and lets a Zennit ``Composite`` through.

    Args:
        composite: The name or object.
        low: The lowest preprocessed image, for ``epsilon_gamma_box``.
        high: The highest.
        biases: Whether biases take relevance, for those composites that have rules for it.

    Raises:
        ValueError: an unknown name; the message says the nearest one.
        TypeError: neither a name nor a composite.
    """
    if isinstance(composite, Composite):
        return composite
    if not isinstance(composite, str):
        came = f"the class {composite.__name__}" if isinstance(composite, type) else repr(composite)
        raise TypeError(
            f"expected composite as a zennit Composite object or a name ({', '.join(COMPOSITES)}), got {came}"
        )
    require_choice(composite, COMPOSITES, "composite")
    if composite == "face":
        return face(biases=biases)
    options: dict[str, Any] = {"layer_map": _OWN, "zero_params": None if biases else ["bias"]}
    if composite == "guided_backprop":
        options = {"layer_map": _GUIDED}
    elif composite == "epsilon_gamma_box":
        if low is None or high is None:
            raise ValueError("expected the range of preprocessed images for epsilon_gamma_box, got none")
        options.update(low=torch.minimum(low, high), high=torch.maximum(low, high))
    return zennit_composites.COMPOSITES[composite](**options)
