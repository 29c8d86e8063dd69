"""Captum's methods for one input, applied to each image of a pair."""

from __future__ import annotations

import difflib
import functools
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import captum.attr
import numpy as np
import torch
from torch import Tensor, nn

from captum_face._validation import require_baselines, require_choice, require_generator, require_images
from captum_face.attr._morphing import Ends
from captum_face.attr.base import PairAttribution, on_sides
from captum_face.engines.cohort import require_cohort
from captum_face.engines.one_image import gradients_must_come, score_of_one_image
from captum_face.engines.sides import Side, Sides, gradients_enabled, require_pair_similarity
from captum_face.maps.signed import smooth
from captum_face.pair._state import PROCESS_LOCK, float32_by_default
from captum_face.pair.passes import BATCH_OPTIONS
from captum_face.pair.similarity import PairSimilarity

__all__ = ["EachSide"]

#: Baselines that :class:`EachSide` knows by name.
BASELINES = ("black", "blurred", "partner")
#: Standard deviation of the blurred baseline's Gaussian as a fraction of the image's shorter side.
BLUR = 0.1
#: Methods whose baselines are a sample of images, all of them for every input.
_SAMPLED_BASELINES = (
    captum.attr.GradientShap,
    captum.attr.LayerGradientShap,
    captum.attr.NeuronGradientShap,
    captum.attr.DeepLiftShap,  # LayerDeepLiftShap is one
    captum.attr.NeuronDeepLiftShap,
)
#: What Captum says about inputs and hooks of its own, which is no news to the caller.
_ROUTINE_WARNINGS = (r"Input Tensor \d+ did not already require gradients", r"\s*Setting .*hooks")


class _EachSide(PairAttribution):
    """What :class:`EachSide` and the ready-made methods share."""

    def _on_each_side(
        self,
        sides: Sides,
        build: Callable[[Any], captum.attr.Attribution],
        options: Mapping[str, Any],
        *,
        black_box: bool = False,
        seed: int | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, ...]:
        """Runs a method for one input on each image against each of its partners.

        Args:
            sides: What the method was handed.
            build: From the score as a function of one image to the method.
            options: Of the method's ``attribute``.
            black_box: Whether scores alone will do.
            seed, generator: For methods that use global random states; these are left as they were.
        """
        if not black_box:
            require_pair_similarity(self.forward_func, type(self).__name__)
        generator = require_generator(seed, generator)
        options, sampled = dict(options), self.sampled_baselines
        baselines = options.pop("baselines", None)
        if sampled and isinstance(baselines, (str, Path)) and Path(baselines).is_dir():
            cohort = require_cohort(baselines, sides.images, sides.template)
            sides.remarks["cohort"] = f"cohort: {cohort.origin}"
            Ends.of(sides, cohort, sides.threshold(None))  # which says who is no other person
            baselines = cohort.faces
        fills = _require_side_baselines(baselines, sides.images, sampled)
        drawn = None
        if generator is not None:
            drawn = int(torch.randint(2**31, (), generator=generator, device=generator.device))

        def one(side: Side) -> Tensor:
            own = {name: _of_side(value, side) for name, value in options.items()}
            maps = []
            with gradients_enabled():
                image = side.image.clone().requires_grad_(not black_box)
                for single in side.each():
                    score = score_of_one_image(single)
                    method = build(score)
                    to_the_image = not (black_box or isinstance(method, captum.attr.LayerAttribution))
                    if fills is not None:
                        own["baselines"] = _baseline(fills[side.swapped], single, sampled)
                    with (
                        _fixed_random_state(drawn, image.device),
                        gradients_must_come(score, to_the_image=to_the_image),
                    ):
                        attributions = (
                            _with_delta(method, image, own, single)
                            if sides.detailed and _has_delta(method)
                            else method.attribute(image, **own)
                        )
                    maps.append(_as_map(attributions, image, method))
            side.done()
            return torch.cat(maps)

        # Warning filters, global random states and the default dtype belong to the process.
        with PROCESS_LOCK, warnings.catch_warnings(), float32_by_default():
            for message in _ROUTINE_WARNINGS:
                warnings.filterwarnings("ignore", message)
            return sides.explain(one)


class EachSide(_EachSide):
    """Any Captum method for one input, on both images of a pair.

    Image A is explained as the input of the score against B, and B as the input of the score against A
    (:meth:`PairSimilarity.against <captum_face.PairSimilarity.against>`). Pairs are explained one by one,
    so that methods which enlarge the batch work.

    Args:
        forward_func: The :class:`~captum_face.PairSimilarity` to explain. For Captum's perturbation
            methods any callable ``(image_a, image_b) -> (N,)`` will do.
        method_class: A class of ``captum.attr``, such as :class:`captum.attr.Saliency`. Attributions of a
            layer are summed over its channels and upsampled to the image.
        init: Further arguments of its constructor. ``layer=`` is a module of the model or its name in
            ``model.named_modules()``.

    Captum's own DeepLift and GuidedBackprop pass PReLU and ReLU6 by plain gradients, without a word:
    :class:`~captum_face.PairDeepLift` and :class:`~captum_face.PairGuidedBackprop` have rules for them.

    Example::

        >>> from captum.attr import Deconvolution
        >>> from captum_face import PairSimilarity
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 9), torch.nn.ReLU())
        >>> pair = PairSimilarity(model, score="dot")
        >>> images = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)
        >>> attr_a, attr_b = EachSide(pair, Deconvolution).attribute(images)
        >>> attr_a.shape
        torch.Size([2, 3, 8, 8])
    """

    def __init__(
        self, forward_func: Callable[..., Tensor], method_class: type[captum.attr.Attribution], **init: Any
    ) -> None:
        super().__init__(forward_func)
        self.method_class = method_class
        self.init = init

    @property
    def needs(self) -> str:  # type: ignore[override]
        """Gradients, but for Captum's methods of perturbation."""
        return _needs(self.method_class)

    @property
    def sampled_baselines(self) -> bool:  # type: ignore[override]
        """True for methods of Captum that draw from a sample of baselines."""
        return inspect.isclass(self.method_class) and issubclass(self.method_class, _SAMPLED_BASELINES)

    @on_sides
    def attribute(
        self,
        sides: Sides,
        *,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        **options: Any,
    ) -> tuple[Tensor, ...]:
        """Maps of both images, as :class:`~captum_face.PairAttribution` says.

        Args:
            seed: Makes methods that draw random numbers repeatable: every image of every pair starts from
                it. Without it and ``generator`` they draw from torch's and numpy's global states.
            generator: The source of that seed, instead of ``seed``.
            options: Options of the method's own ``attribute``. ``baselines`` may be ``"black"``,
                ``"blurred"`` or ``"partner"`` (the other image of the pair), a number, a tensor of 1 or N
                images, or a tuple of two of these for the two sides; for methods that draw from a sample
                of baselines it is that sample. Other tensors may be tuples of two for the two sides.

        Returns:
            ``(attr_a, attr_b)``, with the sign and unit of the method.

        Cost: the method's own for each image and partner, and one forward pass for the partner.

        Raises:
            TypeError: ``method_class`` is not a method of Captum for one input; it needs gradients and
                ``forward_func`` is not a :class:`~captum_face.PairSimilarity`.
            ValueError: bad images or options (the message says the nearest one), a layer that is not in
                the model, or attributions that are not a map of the image.
        """
        _require_captum_method(self.method_class)
        known = captum_options(self.method_class)
        for name in options:
            require_choice(name, known, f"option of {self.method_class.__name__}")
        init = dict(self.init)
        if init.get("layer") is not None:
            init["layer"] = require_layer(sides.pair, init["layer"])
        # Of what a text holds: Captum knows no "auto", and tuples where JSON has lists.
        options = {name: _as_tuple(value) for name, value in options.items()}
        for name in BATCH_OPTIONS.keys() & options.keys():
            if options[name] == "auto":
                options[name] = sides.images_per_pass(backward=name == "internal_batch_size")
        return self._on_each_side(
            sides,
            lambda forward: self.method_class(forward, **init),
            options,
            black_box=self.needs == "scores alone",
            seed=seed,
            generator=generator,
        )


def captum_options(method_class: type[captum.attr.Attribution]) -> dict[str, inspect.Parameter]:
    """What callers may give to a Captum method's ``attribute`` here, by name."""
    parameters = inspect.signature(method_class.attribute).parameters
    fixed = ("self", "inputs", "target", "additional_forward_args")
    return {name: parameter for name, parameter in parameters.items() if name not in fixed}


def _constructor_options(method_class: type[captum.attr.Attribution]) -> dict[str, inspect.Parameter]:
    known = inspect.signature(method_class).parameters
    return {name: p for name, p in known.items() if name not in ("forward_func", "model")}


@functools.cache
def captum_method(method_class: type[captum.attr.Attribution], name: str) -> type[EachSide]:
    """:class:`EachSide` of one class of Captum, as a method like any other.

    Args:
        method_class: The class.
        name: What tables and files call it.

    Raises:
        TypeError: no method of Captum for one input.
    """
    _require_captum_method(method_class)

    class Method(EachSide):
        captum_class = method_class  # whose docstrings say what its options mean
        needs = _needs(method_class)
        family, source, sampled_baselines = "Captum", "Captum", issubclass(method_class, _SAMPLED_BASELINES)

        def __init__(self, forward_func: Callable[..., Tensor], **init: Any) -> None:
            super().__init__(forward_func, method_class, **init)

        @classmethod
        def options(cls) -> dict[str, inspect.Parameter]:
            return {**captum_options(method_class), **super().options()}

        @classmethod
        def arguments(cls) -> set[str]:
            return set(_constructor_options(method_class))

        @classmethod
        def required(cls) -> list[str]:
            known = _constructor_options(method_class)
            return [name for name, p in known.items() if p.default is p.empty]

    Method.name, Method.__name__, Method.__qualname__ = name, method_class.__name__, method_class.__name__
    return Method


def _needs(method_class: object) -> str:
    black_box = inspect.isclass(method_class) and issubclass(
        method_class, captum.attr.PerturbationAttribution
    )
    return "scores alone" if black_box else "gradients"


def _require_captum_method(method_class: object) -> None:
    if not (inspect.isclass(method_class) and issubclass(method_class, captum.attr.Attribution)):
        raise TypeError(f"expected method_class as a class of captum.attr, got {method_class!r}")
    if issubclass(method_class, PairAttribution):
        name = method_class.__name__
        raise TypeError(
            f"expected a method for one input, got {name}, which explains pairs: use {name}(pair)"
        )
    if issubclass(method_class, captum.attr.NoiseTunnel):
        raise TypeError(
            "expected a method for one input, got NoiseTunnel, which takes a method: use "
            "NoiseTunnel(EachSide(...))"
        )
    if issubclass(method_class, captum.attr.FeaturePermutation):
        raise TypeError(
            "expected a method for one input, got FeaturePermutation, which permutes a batch and leaves a "
            "single image as it is; use FeatureAblation"
        )


def require_layer(pair: PairSimilarity, layer: object) -> nn.Module:
    """The module of the embedding model that ``layer`` is, or whose name it is.

    Raises:
        ValueError: it is not in the model; the message says the nearest name.
    """
    owner = getattr(pair, "embedding_owner", pair.embedding_model)
    names = dict(owner.named_modules()) if isinstance(owner, nn.Module) else {}
    if isinstance(layer, nn.Module):
        if all(layer is not module for module in names.values()):
            raise ValueError(f"expected a layer of the model, got a {type(layer).__name__} that is not in it")
        return layer
    if layer not in names:
        near = difflib.get_close_matches(str(layer), names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "model.named_modules() lists them"
        raise ValueError(f"expected a layer of the model, got {layer!r}, which is not in it; {hint}")
    return names[layer]


def _require_side_baselines(
    baselines: object, images: tuple[Tensor, Tensor], sampled: bool
) -> tuple[Any, Any] | None:
    """The baselines of both sides, checked; None where none are given, so that the method's own apply."""
    if baselines is None:
        return None
    sides = baselines if isinstance(baselines, (tuple, list)) else (baselines, baselines)
    if len(sides) != 2:
        raise ValueError(f"expected baselines for two sides, got {len(sides)}")
    for side, image in zip(sides, images, strict=True):
        if isinstance(side, str):
            require_choice(side, BASELINES, "baseline")
        elif sampled and not (isinstance(side, Tensor) and side.shape[1:] == image.shape[1:]):
            came = tuple(side.shape) if isinstance(side, Tensor) else repr(side)
            raise ValueError(
                f"expected baselines as a sample of images (M, C, H, W) like {tuple(image.shape)}, got {came}"
            )
        elif sampled:
            require_images(side, "baselines")
    if not sampled:
        checked = require_baselines(tuple(0 if isinstance(side, str) else side for side in sides), images)
        sides = [
            given if isinstance(given, str) else value for given, value in zip(sides, checked, strict=True)
        ]
    return sides[0], sides[1]


def _baseline(baseline: Any, side: Side, sampled: bool) -> Tensor:
    """What stands in one image of one pair for a face that is not there, as a tensor of images."""
    image = side.image
    if isinstance(baseline, str):
        named = {
            "black": lambda: torch.zeros_like(image),
            "blurred": lambda: smooth(image, BLUR * min(image.shape[-2:])),
            "partner": lambda: side.partners,
        }
        return named[baseline]()
    if sampled:
        return baseline.to(image)
    row = side.own_row(baseline)
    return row.expand_as(image) if isinstance(row, Tensor) else torch.full_like(image, row)


def _has_delta(method: captum.attr.Attribution) -> bool:
    """Whether a method reports how far its map's sum is from the difference of scores."""
    return "return_convergence_delta" in inspect.signature(method.attribute).parameters


def _with_delta(
    method: captum.attr.Attribution, image: Tensor, options: Mapping[str, Any], side: Side
) -> object:
    """A method's attributions of one image; the side notes how complete they are, on average over draws."""
    given = {name: value for name, value in options.items() if name != "return_convergence_delta"}
    attributions, delta = method.attribute(image, **given, return_convergence_delta=True)
    if isinstance(attributions, Tensor):
        # Captum's LRP counts the other way round.
        delta = delta.detach().double().mean() * (-1 if isinstance(method, captum.attr.LRP) else 1)
        side.note("convergence_delta", delta[None])
        side.note("score_difference", attributions.detach().double().sum()[None] - delta)
    return attributions


def _as_tuple(value: Any) -> Any:
    return tuple(map(_as_tuple, value)) if isinstance(value, list) else value


def _of_side(value: Any, side: Side) -> Any:
    """This side's own part of an option that is given as a tuple of two tensors."""
    both = isinstance(value, tuple) and len(value) == 2 and all(isinstance(part, Tensor) for part in value)
    return value[side.swapped] if both else value


def _as_map(attributions: object, image: Tensor, method: captum.attr.Attribution) -> Tensor:
    """Attributions ``(1, C, H, W)``; those of a layer are summed over its channels and upsampled."""
    if not isinstance(attributions, Tensor) or attributions.ndim != 4 or len(attributions) != 1:
        came = tuple(attributions.shape) if isinstance(attributions, Tensor) else type(attributions).__name__
        raise ValueError(
            f"expected {type(method).__name__} to answer with one tensor (1, C, H, W), got {came}; "
            "convergence deltas are not supported, and layers must have an output (N, C, H, W)"
        )
    maps: Tensor = attributions.detach()
    if not torch.isfinite(maps).all():
        raise ValueError(
            f"expected finite attributions from {type(method).__name__}, got NaN or infinite values"
        )
    if maps.shape != image.shape:
        total = maps.sum(1, keepdim=True)
        maps = captum.attr.LayerAttribution.interpolate(total, tuple(image.shape[-2:]), "bilinear")
    return maps.expand_as(image)


@contextmanager
def _fixed_random_state(seed: int | None, device: torch.device) -> Iterator[None]:
    """Torch's and numpy's global states start from ``seed`` inside and are as before after; None: nothing."""
    if seed is None:
        yield
        return
    numpy_state = np.random.get_state()  # noqa: NPY002 - Captum draws from the global state
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            yield
    finally:
        np.random.set_state(numpy_state)  # noqa: NPY002
