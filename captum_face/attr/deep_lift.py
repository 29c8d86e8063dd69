"""DeepLIFT for pairs, complete for every activation that acts on each value by itself.

Captum's hooks know ``nn.ReLU`` and a few more. Face networks have PReLU and ReLU6, which they would pass
by plain gradients, silently. The rules here reach every module that acts on each value by itself.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import captum.attr
import torch
from captum.attr._core.deep_lift import SUPPORTED_NON_LINEAR
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from captum_face.attr.base import INCOMPLETE, on_sides
from captum_face.attr.each_side import _EachSide
from captum_face.attr.registry import method
from captum_face.engines.one_image import NormalisedBy
from captum_face.engines.sides import Sides
from captum_face.pair.scores import unit

__all__ = ["PairDeepLift"]

#: What guided backpropagation calls a rectifier.
RECTIFIERS = (nn.ReLU, nn.ReLU6, nn.PReLU, nn.LeakyReLU, nn.RReLU)
#: Activations that act on each value by itself: the rescale rule holds for any of them.
ELEMENTWISE = (
    *RECTIFIERS, nn.CELU, nn.ELU, nn.GELU, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.LogSigmoid,
    nn.Mish, nn.SELU, nn.SiLU, nn.Sigmoid, nn.Softplus, nn.Softsign, nn.Tanh,
)  # fmt: skip


#: The same and others as operations, by PyTorch's names for them.
NONLINEAR = {
    "celu", "elu", "gelu", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "log_softmax", "max_pool2d",
    "max_pool2d_with_indices", "maximum", "mish", "native_group_norm", "native_layer_norm", "prelu",
    "prelu_kernel", "relu", "relu6", "rrelu_with_noise", "selu", "sigmoid", "silu", "softmax", "softplus",
    "tanh",
}  # fmt: skip


#: The rescale rule holds at the place of the larger maximum.
MAX_POOLING = (nn.modules.pooling._MaxPoolNd, nn.modules.pooling._AdaptiveMaxPoolNd)


_NO_RULE_FROM = (
    "torch.nn.modules.activation",
    "torch.nn.modules.normalization",
    "torch.nn.modules.instancenorm",
)


@method(
    "deep_lift",
    display="DeepLIFT",
    family="gradient",
    source="arXiv 1704.02685",
    passes="4 backward, 6 forward",
    needs="gradients",
)
class PairDeepLift(_EachSide):
    r"""DeepLIFT with the rescale rule (Shrikumar, Greenside and Kundaje, ICML 2017, arXiv 1704.02685).

    :class:`captum.attr.DeepLift` on each side. At each activation :math:`y = \sigma(x)` the gradient is
    replaced by :math:`\Delta y / \Delta x`, the difference between image and baseline; by the gradient
    where :math:`\Delta x` is rounding. Captum has the rule for a few activations and passes the others by
    plain gradients; here it holds for all that act on each value by itself, PReLU and ReLU6 among them.
    At a maximum over windows, which may overlap, it holds for the place of the larger maximum of the two,
    and the cosine's normalisation has a rule of the same kind (ours): with :math:`n = |f|^2`, the change of
    :math:`f \cdot n^{-1/2}` is shared as that of a product, and :math:`\Delta n^{-1/2} / \Delta n` is the
    multiplier of the length. The multiplier of the score is the mean of its gradients at image and baseline,
    which is exact for squared distances. Without these two the map would not sum to anything.
    """

    @on_sides
    def attribute(
        self, sides: Sides, *, baselines: str | float | Tensor | tuple[Any, Any] = "black"
    ) -> tuple[Tensor, ...]:
        """Signed maps of both images, as :class:`~captum_face.PairAttribution` says.

        Args:
            baselines: What the image is compared with: ``"black"``, ``"blurred"`` (a Gaussian of a tenth
                of the shorter side), ``"partner"`` (the other image of the pair), a number, a tensor of 1
                or N images, or a tuple of two of these for the two sides.

        Returns:
            ``(attr_a, attr_b)`` in units of score. Under the scores of this package each sums to the
            score less the baseline's score against the partner, unless the model has activations that
            are no modules. Deterministic.

        Cost: for each image and partner one forward and one backward pass of two images, and a forward
        pass for the partner.

        Raises:
            TypeError: ``forward_func`` is not a :class:`~captum_face.PairSimilarity`, or its model cannot
                be differentiated.
            ValueError: bad images or options, a layer without a rule (attention, layer normalisation, a
                softmax that runs twice), or a model that takes one image at a time.
        """
        _require_rules(sides.pair)
        return self._on_each_side(
            sides,
            lambda score: _DeepLift(NormalisedBy(score, _RescaledUnit.apply, _MeanGradient.apply)),
            {"baselines": baselines},
        )


class _DeepLift(captum.attr.DeepLift):
    """Captum's DeepLift with the rescale rule for all of :data:`ELEMENTWISE`, and no traces left behind."""

    def attribute(
        self, inputs: Tensor, *, baselines: Tensor, return_convergence_delta: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        scores: list[Tensor] = []
        handle = self.model.register_forward_hook(lambda _, args, out: scores.append(out.detach()))
        self.passed = _Passed()
        try:
            with self.passed:
                attributions: Tensor = super().attribute.__wrapped__(self, inputs, baselines)
        finally:
            handle.remove()
        difference, total = float(scores[-1][0] - scores[-1][1]), float(attributions.detach().sum())
        plain = ", ".join(sorted(self.passed.without_rule))
        if plain or abs(total - difference) > INCOMPLETE[0] + INCOMPLETE[1] * abs(difference):
            named = f" ({plain})" if plain else ""
            warnings.warn(
                f"the map of DeepLIFT sums to {total:.3g}, the difference of scores is {difference:.3g}: "
                f"some of the model{named} has no rule and was passed by plain gradients, such as "
                "activations that are called as functions (F.relu) or hidden by TorchScript and are not "
                "modules, or a score of more than squares of embeddings",
                UserWarning,
                stacklevel=2,
            )
        if return_convergence_delta:
            return attributions, torch.tensor([total - difference])
        return attributions

    def _register_hooks(self, module: nn.Module, attribute_to_layer_input: bool = True) -> None:
        known = isinstance(module, (*ELEMENTWISE, *MAX_POOLING))
        if known or self._is_non_linear(module):
            self.forward_handles.append(module.register_forward_pre_hook(lambda *_: self.passed.enter()))
        if known:
            self._register_rescaling(module)
        else:
            super()._register_hooks(module, attribute_to_layer_input)
            if self._is_non_linear(module):
                self.forward_handles.append(module.register_forward_pre_hook(_refuse_second_use()))
        if known or self._is_non_linear(module):  # after the rule, which runs the module too
            self.forward_handles.append(module.register_forward_hook(lambda *_: self.passed.leave()))

    def _register_rescaling(self, module: nn.Module) -> None:
        waiting: list[Tensor] = []

        def before(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            waiting.append(args[0])
            return (args[0].clone(), *args[1:])  # the module may work in place

        def after(module: nn.Module, _: object, output: Tensor) -> Tensor:
            x, y = waiting.pop(), output.detach()
            if isinstance(module, MAX_POOLING):
                x = _larger_maxima(module, x, y)
                slope = torch.ones_like(y)
            else:
                slope = _slope(module, x.detach())
            return _Multiplied.apply(x, y, _rescale_multiplier(x.detach(), y, slope))

        self.forward_handles.append(module.register_forward_pre_hook(before))
        self.forward_handles.append(module.register_forward_hook(after))

    def _remove_hooks(self, extra_hooks_to_remove: list[Any]) -> None:
        super()._remove_hooks(extra_hooks_to_remove)
        # Captum keeps what its own rules need on the modules, and leaves it there after an error.
        for module in self.model.modules():
            if self._is_non_linear(module):
                for name in ("input", "output"):
                    vars(module).pop(name, None)


class _Passed(TorchDispatchMode):
    """Sees nonlinear operations outside of the modules that have a rule."""

    def __init__(self) -> None:
        super().__init__()
        self.without_rule: set[str] = set()
        self._inside = 0

    def enter(self) -> None:
        self._inside += 1

    def leave(self) -> None:
        self._inside -= 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__.strip("_")
        if name in NONLINEAR and not self._inside:
            self.without_rule.add(name)
        return func(*args, **(kwargs or {}))


class _Multiplied(torch.autograd.Function):
    """A value ``y`` of ``x`` whose derivative is given."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, multiplier: Tensor) -> Tensor:
        ctx.save_for_backward(multiplier)
        ctx.set_materialize_grads(False)  # a layer without gradients stays one
        return y.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None) -> tuple[Tensor | None, None, None]:
        return None if gradient is None else gradient * ctx.saved_tensors[0], None, None


class _RescaledUnit(torch.autograd.Function):
    """Unit embeddings of an image and its baseline, whose way back is exact for their difference."""

    @staticmethod
    def forward(ctx: Any, embeddings: Tensor) -> Tensor:
        ctx.save_for_backward(embeddings)
        return unit(embeddings)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (embeddings,) = ctx.saved_tensors
        inverse = 1 / embeddings.norm(dim=1)
        # With r = n^(-1/2), (r - r') / (n - n') = -(r r')^2 / (r + r'), which is the derivative at r = r'.
        secant = -inverse.prod().square() / inverse.sum()
        through_length = (gradient * embeddings.mean(0)).sum(1, keepdim=True) * secant * embeddings.sum(0)
        return inverse.mean() * gradient + through_length


class _MeanGradient(torch.autograd.Function):
    """Embeddings of an image and its baseline, with the mean of both gradients as the gradient of each.

    It is the multiplier of any score that is linear or quadratic in what it compares.
    """

    @staticmethod
    def forward(ctx: Any, embeddings: Tensor) -> Tensor:
        return embeddings.view_as(embeddings)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.mean(0, keepdim=True).expand_as(gradient)


def _slope(module: nn.Module, x: Tensor) -> Tensor:
    """The derivative of an activation."""
    probe = x.clone().requires_grad_()
    with torch.enable_grad():
        # Not through __call__, which would run the hooks again.
        (slope,) = torch.autograd.grad(module.forward(probe.clone()).sum(), probe)
    return slope


def _larger_maxima(module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """For each window what lies, in image and baseline, where the larger of their two maxima does.

    That place changes at least as much as the maximum, so that the multiplier is at most 1. Captum's rule
    takes the same place, but loses relevance where windows overlap.
    """
    twin: Any = copy.copy(module)
    twin.return_indices = True
    image, baseline = twin.forward(x.detach())[1].chunk(2)
    above, below = y.chunk(2)
    places = torch.where(above >= below, image, baseline).repeat(2, *[1] * (y.ndim - 1))
    return x.flatten(2).gather(2, places.flatten(2)).reshape(y.shape)


def _rescale_multiplier(x: Tensor, y: Tensor, slope: Tensor) -> Tensor:
    """Difference of outputs over that of inputs; images are the first half of both, baselines the second.

    Args:
        x: Inputs.
        y: Outputs, each of the input at its place.
        slope: The multiplier where inputs do not differ.
    """
    (image, baseline), (out, out_baseline) = x.chunk(2), y.chunk(2)
    # Relative to the values: a smaller difference is mostly rounding, and its quotient could be anything.
    rounding = 100 * torch.finfo(x.dtype).eps * (image.abs() + baseline.abs())
    near = (image - baseline).abs() <= rounding
    quotient = (out - out_baseline) / (image - baseline).where(~near, 1)
    return torch.cat([torch.where(near, part, quotient) for part in slope.chunk(2)])


def _refuse_second_use() -> Callable[[nn.Module, object], None]:
    """A hook for modules whose rule is Captum's, which remembers one input for each module."""
    used: list[bool] = []

    def hook(module: nn.Module, _: object) -> None:
        if used:
            raise ValueError(
                f"expected each {type(module).__name__} to be used once, got one that runs twice, for which "
                "DeepLIFT has no rule; give each place a module of its own, or use integrated_gradients"
            )
        used.append(True)

    return hook


def _require_rules(pair: nn.Module) -> None:
    if getattr(pair, "max_batch_size", None) == 1:
        raise ValueError(
            "expected a model that takes image and baseline in one batch, got max_batch_size=1; use "
            "integrated_gradients instead"
        )
    for path, module in pair.named_modules():
        known = isinstance(module, ELEMENTWISE) or type(module) in SUPPORTED_NON_LINEAR
        if type(module).__module__ in _NO_RULE_FROM and not known:
            raise ValueError(
                f"expected layers that DeepLIFT has a rule for, got {type(module).__name__} at {path!r}; use "
                "integrated_gradients instead"
            )
