"""The contract of a method: one image and its K partners give maps."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from captum.attr import Attribution
from captum.log import log_usage
from torch import Tensor

from captum_face._validation import require_pair
from captum_face.engines.one_image import require_differentiable
from captum_face.engines.sides import Ready, Sides, require_pair_similarity
from captum_face.pair._state import alone, hooks_as_they_were, uncompiled, without_autocast
from captum_face.pair.embedding import require_embeddings
from captum_face.pair.passes import BATCH_OPTIONS, require_batch_size
from captum_face.pair.similarity import frozen

__all__ = ["DetailedAttributions", "PairAttribution", "on_sides"]


#: Absolute and relative difference from which a map's sum is wrong, and not rounding: 5 % of what it should
#: sum to is what Sundararajan et al. (2017) ask of integrated gradients.
INCOMPLETE = (5e-3, 5e-2)


@dataclass(frozen=True, eq=False)  # tensors have no single answer to ==
class DetailedAttributions:
    """Maps with what else a method knows; made by :meth:`PairAttribution.attribute_detailed`."""

    attributions: tuple[Tensor, Tensor]  #: what :meth:`PairAttribution.attribute` gives
    scores: Tensor  #: ``(N,)``: the pairs' scores
    #: Each ``(N, 2)``, a value for both images of each pair; empty for most methods.
    details: dict[str, Tensor]
    #: What to say of how the maps came about, by topic, such as the threshold where none was given.
    remarks: dict[str, str] = field(default_factory=dict)


def on_sides(attribute: Callable[..., Any] | None = None, *, convergence_delta: bool = False) -> Any:
    """Makes ``attribute(self, sides, *, options)`` what users of Captum call: ``attribute(inputs, ...)``.

    The method is handed :class:`~captum_face.engines.sides.Sides` and returns what
    :meth:`Sides.explain <captum_face.engines.sides.Sides.explain>` gave. Before that the images are checked,
    the model is frozen and gradients are switched off; afterwards all of it is as it was, also after an
    error. The result carries Captum's ``log_usage``, which :class:`captum.attr.NoiseTunnel` relies on, and
    takes ``show_progress``.

    Args:
        attribute: The method. Its options are keyword-only and have defaults.
        convergence_delta: Whether it notes ``"convergence_delta"`` for each side. Then it takes Captum's
            ``return_convergence_delta``, and :meth:`PairAttribution.has_convergence_delta` is True.
    """
    if attribute is None:
        return functools.partial(on_sides, convergence_delta=convergence_delta)

    @functools.wraps(attribute)
    def run(
        self: PairAttribution, inputs: tuple[Tensor, Tensor], *, show_progress: bool = False, **options: Any
    ) -> Any:
        wanted = convergence_delta and options.pop("return_convergence_delta", False)
        sides = self._sides(inputs, options, show_progress)
        maps = self._run(attribute, sides, options)
        return (maps, sides.details()["convergence_delta"]) if wanted else maps

    run.__signature__ = _public_signature(attribute, convergence_delta)  # type: ignore[attr-defined]
    run.on_sides = attribute  # type: ignore[attr-defined]
    run.convergence_delta = convergence_delta  # type: ignore[attr-defined]
    return log_usage()(run)


def _public_signature(attribute: Callable[..., Any], convergence_delta: bool) -> inspect.Signature:
    """The signature that users see: ``inputs`` in place of the sides, and what the decorator adds."""
    signature = inspect.signature(attribute)
    first, _, *own = signature.parameters.values()
    keyword = inspect.Parameter.KEYWORD_ONLY
    inputs = inspect.Parameter("inputs", first.kind, annotation="tuple[Tensor, Tensor]")
    flags = (["return_convergence_delta"] if convergence_delta else []) + ["show_progress"]
    added = [inspect.Parameter(name, keyword, default=False, annotation="bool") for name in flags]
    named = [p for p in own if p.kind is keyword]
    returns = signature.return_annotation
    return signature.replace(
        parameters=[first, inputs, *named, *added, *(p for p in own if p.kind is not keyword)],
        return_annotation="tuple[Tensor, Tensor]" if attribute.__name__ == "attribute" else returns,
    )


class PairAttribution(Attribution):
    r"""Base of the methods that explain a pair of images.

    A method defines ``attribute(self, sides, *, options)`` under :func:`on_sides`, and stands under
    :func:`~captum_face.method`, which registers it.

    Shared by all methods:

    * ``inputs`` is ``(image_a, image_b)``: float ``(N, C, H, W)`` in [0, 1]; a batch of 1 on one side
      stands against all N of the other and is computed once.
    * The result is ``(attr_a, attr_b)``, each ``(N, C, H, W)`` on the inputs' device and in their dtype,
      without gradients: for a side of batch 1, one map for each of its N pairs. Positive speaks for the
      same person, negative against. A method with one value per pixel repeats it over the channels.
    * The model runs in eval mode with frozen parameters and is left as it was, also after an error.
    * A batch gives what its items give one by one.
    * A ``TypeError`` says that ``forward_func`` has not what the method needs, a ``ValueError`` that images,
      embeddings, scores or options are bad; before any long computation where it can be known.

    Options of one name mean the same in every method that has them:

    Args:
        forward_func: A :class:`~captum_face.PairSimilarity`, whose model must be differentiable for methods
            of gradients. Methods that need scores alone also take any callable ``(image_a, image_b) ->
            (N,)``.
        threshold: The verification threshold :math:`\theta` in units of the score; None for the pair's own.
            Where the pair has none, methods that weight channels take what embeddings at right angles score
            (0, and :math:`-|e_A|^2 - |e_B|^2` for ``"euclidean"``), and those that ask from a cohort the
            middle between the cohort's mean score and a perfect match.
        baselines: What hidden pixels show: a number (0 is black), ``"partner"`` for the other image of the
            pair, a tensor ``(1, C, H, W)`` or ``(N, C, H, W)``, or a tuple of two of these for the two sides.
        seed: Makes the maps repeatable; without it and ``generator``, torch's global state is used.
        generator: The source of randomness itself, instead of ``seed``.
        internal_batch_size: Images that go forward and backward in one pass; memory grows with it. None for
            what suits the device, ``"auto"`` for what is measured to be cheapest. Half as many from where
            memory runs out.
        perturbations_per_eval: Perturbed images in one forward pass, likewise.
        show_progress: Show a progress bar.
    """

    forward_func: Callable[..., Tensor]
    name: ClassVar[str] = ""  #: what ``explain(method=...)`` and ``--method`` call it
    display: ClassVar[str] = ""  #: what figures and reports call it
    family: ClassVar[str] = ""  #: ``"feature-guided"``, ``"gradient"``, ``"occlusion"`` or another
    passes: ClassVar[str] = ""  #: forward and backward passes for a pair, D = embedding size
    source: ClassVar[str] = ""  #: the publication
    needs: ClassVar[str] = "scores alone"  #: or ``"embeddings"``, or ``"gradients"``: what it needs at least
    null: ClassVar[bool] = False  #: whether it explains nothing, and stands in tables for comparison
    argues: ClassVar[str | None] = None  #: a null baseline that argues ``"for"`` a match, whatever is asked
    float32: ClassVar[bool] = False  #: whether the model computes in float32, whatever the pair's precision
    #: Whether ``baselines`` of several images are a sample for every pair, and not one for each.
    sampled_baselines: bool = False

    def __init__(self, forward_func: Callable[..., Tensor]) -> None:
        super().__init__(forward_func)

    @classmethod
    def build(cls, forward_func: Callable[..., Tensor]) -> PairAttribution:
        """The method on a ``forward_func``, with the defaults of its constructor."""
        return cls(forward_func)

    @classmethod
    def options(cls) -> dict[str, inspect.Parameter]:
        """The keyword options of :meth:`attribute`, by name."""
        parameters = inspect.signature(cls.attribute).parameters
        return {
            name: p
            for name, p in parameters.items()
            if p.kind is p.KEYWORD_ONLY and name != "return_convergence_delta"
        }

    @classmethod
    def arguments(cls) -> set[str]:
        """What its constructor takes besides ``forward_func``."""
        return {name for name in inspect.signature(cls).parameters if name != "forward_func"}

    @classmethod
    def required(cls) -> list[str]:
        """Those of :meth:`arguments` that have no default."""
        own = list(inspect.signature(cls).parameters.values())[1:]
        return [p.name for p in own if p.default is p.empty and p.kind is not p.VAR_KEYWORD]

    @classmethod
    def deterministic(cls) -> bool:
        """Whether equal inputs give equal maps without a seed."""
        return "seed" not in cls.options()

    @classmethod
    def cohort_option(cls) -> str | None:
        """The option that takes faces of other people; None for methods that compare with nobody."""
        names = ("cohort", *(["baselines"] if cls.sampled_baselines is True else []))
        return next((name for name in names if name in cls.options()), None)

    @classmethod
    def batch_option(cls) -> str | None:
        """What it calls the images in one pass: see :data:`captum_face.pair.passes.BATCH_OPTIONS`."""
        return next((name for name in BATCH_OPTIONS if name in cls.options()), None)

    def has_convergence_delta(self) -> bool:
        """Whether :meth:`attribute` takes Captum's ``return_convergence_delta``."""
        return bool(getattr(type(self).attribute, "convergence_delta", False))

    def attribute_probe(
        self,
        inputs: tuple[Tensor, Tensor],
        *,
        partner_embeddings: Tensor | None = None,
        show_progress: bool = False,
        **options: Any,
    ) -> Tensor:
        """The attributions of image A alone, at half the cost.

        Args:
            inputs: As for :meth:`attribute`.
            partner_embeddings: The embeddings ``(N, D)`` of image B where they are known, which then does not
                pass the model again.
            show_progress: Show a progress bar.
            options: Those of :meth:`attribute`.

        Returns:
            ``(N, C, H, W)``, what :meth:`attribute` gives for image A.
        """
        return self._probe(inputs, partner_embeddings, show_progress, options)[1]

    def probe_with_remarks(
        self,
        inputs: tuple[Tensor, Tensor],
        *,
        partner_embeddings: Tensor | None = None,
        show_progress: bool = False,
        **options: Any,
    ) -> tuple[Tensor, dict[str, str]]:
        """What :meth:`attribute_probe` gives, and what to say of it: see :class:`DetailedAttributions`."""
        sides, maps = self._probe(inputs, partner_embeddings, show_progress, options, detailed=True)
        return maps, self._remarks(sides, (maps,))

    def _probe(
        self,
        inputs: tuple[Tensor, Tensor],
        partner_embeddings: Tensor | None,
        show_progress: bool,
        options: dict[str, Any],
        *,
        detailed: bool = False,
    ) -> tuple[Sides, Tensor]:
        known = {}
        if partner_embeddings is not None:
            require_pair_similarity(self.forward_func, f"partner_embeddings of {type(self).__name__}")
            known[True] = require_embeddings(partner_embeddings, len(require_pair(inputs)[1])).detach()
        sides = self._sides(inputs, options, show_progress, which=(False,), known=known, detailed=detailed)
        return sides, self._run(self._on_sides(), sides, options)[0]

    def check(self, inputs: tuple[Tensor, Tensor], *, show_progress: bool = False, **options: Any) -> None:
        """Looks at everything that can be wrong before the maps are computed.

        Args:
            inputs: As for :meth:`attribute`.
            show_progress: As for :meth:`attribute`; there is nothing to show.
            options: Those of :meth:`attribute`.

        Cost: a few forward passes, and a backward pass for methods that need gradients.

        Raises:
            TypeError, ValueError, ImportError, OSError, RuntimeError: what :meth:`attribute` would raise of
                images, options, and what the method needs of the model, of files and of installed packages.
        """
        sides = self._sides(inputs, options, False, dry=True)
        with suppress(Ready):
            self._run(self._on_sides(), sides, options)
        if self.needs == "gradients":
            with frozen(self.forward_func):
                require_differentiable(sides.pair, sides.images[0][:1])

    def attribute_detailed(
        self, inputs: tuple[Tensor, Tensor], *, show_progress: bool = False, **options: Any
    ) -> DetailedAttributions:
        """The attributions with the pairs' scores, and with what else the method knows of its maps.

        Args:
            inputs: As for :meth:`attribute`.
            show_progress: Show a progress bar.
            options: Those of :meth:`attribute`.

        Cost: at most one forward pass for each image more than :meth:`attribute`.
        """
        sides = self._sides(inputs, options, show_progress, detailed=True)
        attr_a, attr_b = self._run(self._on_sides(), sides, options)
        remarks = self._remarks(sides, (attr_a, attr_b))
        with frozen(self.forward_func), torch.inference_mode(False), torch.no_grad():
            return DetailedAttributions((attr_a, attr_b), sides.scores, sides.details(), remarks)

    def _remarks(self, sides: Sides, maps: tuple[Tensor, ...]) -> dict[str, str]:
        """What to say of the maps, with what is missing in their sums."""
        details = sides.details()
        if "convergence_delta" not in details:
            return sides.remarks
        delta = details["convergence_delta"].double()
        sums = torch.stack([of_side.flatten(1).sum(1) for of_side in maps], 1).cpu().double()
        explained = details.get("score_difference", sums - delta).double()
        wrong = delta.abs() > INCOMPLETE[0] + INCOMPLETE[1] * explained.abs()
        if not wrong.any():
            return sides.remarks
        worst = (delta.abs() * wrong).flatten().argmax()
        got, want = float((explained + delta).flatten()[worst]), float(explained.flatten()[worst])
        step = next((name for name in ("n_steps", "n_samples", "n_points") if name in self.options()), None)
        advice = f"; raise {step}" if step else ""
        incomplete = f"incomplete: a map sums to {got:.3f} instead of {want:.3f}{advice}"
        return sides.remarks | {"convergence": incomplete}

    def _sides(
        self, inputs: tuple[Tensor, Tensor], options: dict[str, Any], show_progress: bool, **given: Any
    ) -> Sides:
        """Checked images without gradients, and what the method is handed with them."""
        name = type(self).__name__
        for option in BATCH_OPTIONS:
            require_batch_size(options.get(option), option)
        if self.needs != "scores alone":
            require_pair_similarity(self.forward_func, name)
        with torch.inference_mode(False):  # whose tensors cannot take part in a backward pass
            image_a, image_b = (
                image.detach().clone() if image.is_inference() else image.detach()
                for image in require_pair(inputs)
            )
        if not callable(self.forward_func):
            raise TypeError(f"expected forward_func to be callable, got {type(self.forward_func).__name__}")
        own = self.batch_option()
        size = options.get(own, self.options()[own].default) if own else None
        return Sides(
            self.forward_func,
            (image_a, image_b),
            batch_size=size,
            float32=self.float32,
            name=name,
            show_progress=show_progress,
            **given,
        )

    def _on_sides(self) -> Callable[..., Any]:
        function = getattr(type(self).attribute, "on_sides", None)
        if function is None:
            name = type(self).__name__
            raise TypeError(
                f"expected {name}.attribute(self, sides, *, options) under @captum_face.attr.on_sides"
            )
        return function

    def _run(self, method: Callable[..., Any], sides: Sides, options: dict[str, Any]) -> Any:
        with (
            alone(self.forward_func),
            frozen(self.forward_func),
            uncompiled() if self.needs == "gradients" else nullcontext(),
            hooks_as_they_were(self.forward_func),
            without_autocast(sides.images[0].device),
            torch.inference_mode(False),
            torch.no_grad(),
        ):
            return method(self, sides, **options)
