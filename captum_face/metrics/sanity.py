"""Does a map depend on the model, on the order of the pair, and little on noise?"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import captum.metrics
import torch
from torch import Tensor, nn

from captum_face._validation import require_choice, require_generator, require_pair, require_positive_int
from captum_face.attr.base import PairAttribution
from captum_face.maps.ranks import spearman
from captum_face.maps.signed import pixel_map
from captum_face.pair._state import PROCESS_LOCK, alone
from captum_face.pair.similarity import PairSimilarity, frozen

__all__ = ["Randomization", "infidelity", "randomization", "sensitivity", "symmetry"]

_SIMILARITIES = ("spearman", "spearman_absolute")


class Randomization(NamedTuple):
    """How a map changes while the model's weights are replaced by random ones."""

    layers: tuple[str, ...]  #: the module up to which weights are random, from the output to the input
    similarity: Tensor  #: ``(L + 1, 2, N)`` float64 in [-1, 1], for each side; the first with no layer random


def randomization(
    method: PairAttribution,
    inputs: tuple[Tensor, Tensor],
    *,
    seed: int = 0,
    similarity: str = "spearman",
    n_steps: int | None = None,
    attribute_options: dict[str, Any] | None = None,
) -> Randomization:
    """Cascading randomisation of the model's weights (Adebayo et al. 2018, arXiv 1810.03292).

    Modules with parameters of their own are initialised anew, one after the other from the output to the
    input, and stay so. After each the map is compared with that of the intact model. A map that stays the
    same does not depend on what the model has learned.

    The order is that in which the modules finish in a forward pass, backwards (a module that is used
    twice counts where it is used last), not that of registration, which need not be the same. Modules
    that no hook sees (TorchScript) follow in the order of registration, backwards. A module is initialised
    by its own ``reset_parameters()``, with which PyTorch's layers begin (a BatchNorm forgets its statistics
    too); parameters of modules without it are drawn from a normal distribution of their own mean and
    standard deviation.

    Args:
        method: A method on a :class:`~captum_face.PairSimilarity`, or on another module.
        inputs: ``(image_a, image_b)``.
        seed: Decides the new weights, and is the method's ``seed`` where it takes one and none is given.
        similarity: ``"spearman"``: rank correlation of the signed maps S; ``"spearman_absolute"``: of
            ``|S|``, which does not see that only the sign changed.
        n_steps: Explain again this many times, after shares of the modules as even as can be; None for
            after each of them.
        attribute_options: Options of the method's ``attribute``.

    Returns:
        :class:`Randomization`. 1 = unchanged, about 0 = another map altogether; lower is better, at least at
        the end. The first row explains the intact model a second time: it is 1 unless the method is random
        and not seeded. A constant map is similar to none (0).

    Cost: L + 2 explanations and a forward pass. The weights and buffers are restored bit for bit, also after
    an error.

    Raises:
        TypeError: a ``forward_func`` that is not a module.
        ValueError: a model without parameters, an unknown similarity, and what the method raises.
    """
    require_choice(similarity, _SIMILARITIES, "similarity")
    if n_steps is not None:
        require_positive_int(n_steps, "n_steps")
    image_a, image_b = require_pair(inputs)
    model = method.forward_func
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"expected a method on a PairSimilarity, whose weights can be replaced, got one on "
            f"{type(model).__name__}"
        )
    options = _seeded_options(method, seed, attribute_options)

    def maps() -> list[Tensor]:
        signed = [pixel_map(attr).flatten(1) for attr in method.attribute((image_a, image_b), **options)]
        return [s.abs() for s in signed] if similarity == "spearman_absolute" else signed

    def similarity_to(original: list[Tensor]) -> Tensor:
        return torch.stack([spearman(x, y).cpu() for x, y in zip(original, maps(), strict=True)])

    with _own_randomness(seed, image_a, model), frozen(model):
        layers = _from_output_to_input(model, image_a[:1], image_b[:1])
        if not layers:
            raise ValueError("expected a model with parameters, got one without: there is nothing to replace")
        count = len(layers) if n_steps is None else min(len(layers), n_steps)
        stages = [layers[len(layers) * i // count : len(layers) * (i + 1) // count] for i in range(count)]
        with _restored(model):
            original = maps()
            values = [similarity_to(original)]
            for stage in stages:
                for _, module in stage:
                    _initialise(module)
                values.append(similarity_to(original))
    return Randomization(tuple(stage[-1][0] for stage in stages), torch.stack(values))


def symmetry(
    method: PairAttribution,
    inputs: tuple[Tensor, Tensor],
    *,
    seed: int = 0,
    attribute_options: dict[str, Any] | None = None,
) -> Tensor:
    """Does an image keep its map when the pair is given the other way round?

    The score is the same for (A, B) and (B, A), so the evidence should be too.

    Args:
        method: The method.
        inputs: ``(image_a, image_b)``.
        seed: The method's ``seed`` where it takes one and none is given.
        attribute_options: Options of the method's ``attribute``; not swapped, so give none that differ
            between the sides.

    Returns:
        ``(N,)`` float64 in [-1, 1]: Spearman's correlation of the map of A in both calls and of B in both,
        averaged. 1 = symmetric. A constant map counts 0: there is nothing to compare.

    Cost: two explanations.

    Raises:
        TypeError, ValueError: what the method raises.
    """
    image_a, image_b = require_pair(inputs)
    options = _seeded_options(method, seed, attribute_options)
    with _own_randomness(seed, image_a, method.forward_func):
        a, b = method.attribute((image_a, image_b), **options)
    with _own_randomness(seed, image_a, method.forward_func):
        swapped_b, swapped_a = method.attribute((image_b, image_a), **options)
    sides = [
        spearman(pixel_map(x).flatten(1), pixel_map(y).flatten(1))
        for x, y in ((a, swapped_a), (b, swapped_b))
    ]
    return (sides[0] + sides[1]) / 2


def sensitivity(
    method: PairAttribution,
    inputs: tuple[Tensor, Tensor],
    *,
    perturb_radius: float = 0.02,
    n_perturb_samples: int = 10,
    max_examples_per_batch: int | None = None,
    seed: int = 0,
    attribute_options: dict[str, Any] | None = None,
) -> Tensor:
    """How much the maps change, at most, under noise that nobody sees: ``captum.metrics.sensitivity_max``.

    The largest ``|S(x + noise) - S(x)| / |S(x)|`` over the noises, norms over both maps (Yeh et al. 2019,
    arXiv 1901.09392). Noise is uniform within the radius, on both images, and clipped to [0, 1].

    Args:
        method: The method.
        inputs: ``(image_a, image_b)``.
        perturb_radius: Largest change of a value; 0.02 is five of 255 levels.
        n_perturb_samples: Noises for each pair.
        max_examples_per_batch: As Captum's.
        seed: Decides the noise, and is the method's ``seed`` where it takes one and none is given: so a
            random method does not lose by its own randomness.
        attribute_options: Options of the method's ``attribute``.

    Returns:
        ``(N,)``, 0 or more, lower is steadier. A map that does not look at the images scores 0: read it
        with :func:`randomization`.

    Cost: ``n_perturb_samples + 1`` explanations.

    Raises:
        TypeError, ValueError: a radius that is not above 0, and what the method raises.
    """
    images = _equal_batches(inputs)
    perturb = _noise(perturb_radius, seed)
    options = _seeded_options(method, seed, attribute_options)
    with _own_randomness(seed, images[0], method.forward_func):
        return captum.metrics.sensitivity_max(
            method.attribute,
            images,
            perturb_func=perturb,
            n_perturb_samples=require_positive_int(n_perturb_samples, "n_perturb_samples"),
            max_examples_per_batch=max_examples_per_batch,
            **options,
        )


def infidelity(
    pair: PairSimilarity,
    inputs: tuple[Tensor, Tensor],
    attributions: tuple[Tensor, Tensor],
    *,
    perturb_radius: float = 0.1,
    n_perturb_samples: int = 50,
    normalize: bool = True,
    max_examples_per_batch: int | None = None,
    seed: int = 0,
) -> Tensor:
    """How badly the maps predict what noise does to the score: ``captum.metrics.infidelity``.

    The mean of ``(I . S - (score(x) - score(x - I)))^2`` over noises I (Yeh et al. 2019, arXiv 1901.09392).
    Noise is uniform within the radius, on both images, and clipped so that ``x - I`` is in [0, 1].

    Args:
        pair: The model; it runs in eval mode and is left as it was.
        inputs: ``(image_a, image_b)``.
        attributions: ``(attr_a, attr_b)`` of their shapes.
        perturb_radius: Largest change of a value.
        n_perturb_samples: Noises for each pair.
        normalize: Scale each pair's maps by the factor that suits best before comparing. Most maps have no
            unit, and would be judged by their scale without it.
        max_examples_per_batch: As Captum's: images in one forward pass, ``N`` at least.
        seed: Decides the noise.

    Returns:
        ``(N,)`` in squared units of the score, lower is better. Normalised, it is at most the mean square of
        the change that the noise makes, which is what an empty map scores; and as the factor that suits
        best may be negative, it cannot see a map whose signs are all the wrong way round.

    Cost: ``n_perturb_samples`` forward passes for each image, and one more for each batch of noises.

    Raises:
        TypeError, ValueError: bad images or attributions, shapes that do not match, a radius not above 0.
    """
    images = _equal_batches(inputs)
    if not isinstance(attributions, (tuple, list)) or len(attributions) != 2:
        raise TypeError("expected attributions as a pair (attr_a, attr_b)")
    maps = []
    for attr, image in zip(attributions, images, strict=True):
        pixel_map(attr)
        if attr.shape != image.shape:
            raise ValueError(
                f"expected attributions of the images' shape {tuple(image.shape)}, got {tuple(attr.shape)}"
            )
        maps.append(attr.detach().contiguous())
    noisy = _noise(perturb_radius, seed)

    def perturb(clean: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        perturbed = noisy(clean)
        return tuple(x - y for x, y in zip(clean, perturbed, strict=True)), perturbed

    with frozen(pair):
        values = captum.metrics.infidelity(
            pair,
            perturb,
            images,
            tuple(maps),
            n_perturb_samples=require_positive_int(n_perturb_samples, "n_perturb_samples"),
            max_examples_per_batch=max_examples_per_batch,
            normalize=normalize,
        )
    # Normalised it is a difference of squares, which rounding can take below 0.
    return values.clamp(min=0)


def _noise(radius: float, seed: int) -> Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]:
    """Uniform noise that leaves images in [0, 1], from a generator of its own."""
    if not 0 < radius <= 1:
        raise ValueError(f"expected perturb_radius in (0, 1], got {radius!r}")
    generator = require_generator(seed, None)

    def perturb(images: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(
            (
                image
                + radius
                * (2 * torch.rand(image.shape, generator=generator, dtype=torch.float32) - 1).to(image)
            ).clamp(0, 1)
            for image in images
        )

    return perturb


def _equal_batches(inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Captum's metrics know no batch of 1 against N."""
    image_a, image_b = require_pair(inputs)
    count = max(len(image_a), len(image_b))
    return image_a.detach().expand(count, -1, -1, -1), image_b.detach().expand(count, -1, -1, -1)


def _seeded_options(method: PairAttribution, seed: int, options: dict[str, Any] | None) -> dict[str, Any]:
    options = dict(options or {})
    if "seed" in inspect.signature(method.attribute).parameters and not {"seed", "generator"} & set(options):
        options["seed"] = seed
    return options


@contextmanager
def _own_randomness(seed: int, image: Tensor, model: object) -> Iterator[None]:
    """The body draws from torch's global generators seeded anew, which are as they were afterwards.

    No other thread draws from them or runs the model meanwhile.
    """
    devices = [image.device.index] if image.is_cuda else []
    with alone(model), PROCESS_LOCK, torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        for device in devices:
            torch.cuda.default_generators[device].manual_seed(seed)
        yield


def _from_output_to_input(model: nn.Module, image_a: Tensor, image_b: Tensor) -> list[tuple[str, nn.Module]]:
    """Names and modules with parameters of their own, the last in a forward pass first."""
    names = {
        module: re.sub(r"^embedding_(model|owner)\.", "", name).replace("embedding_owner", "embedding_model")
        for name, module in model.named_modules()
        if any(p is not None for p in module._parameters.values())
    }
    finished: list[nn.Module] = []
    handles = [m.register_forward_hook(lambda m, *_: finished.append(m)) for m in names]
    try:
        with torch.no_grad():
            model(image_a, image_b)
    finally:
        for handle in handles:
            handle.remove()
    order = dict.fromkeys([*reversed(finished), *reversed(names)])
    return [(names[module], module) for module in order]


def _initialise(module: nn.Module) -> None:
    with torch.no_grad():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
            return
        for parameter in module.parameters(recurse=False):
            mean, deviation = float(parameter.mean()), float(parameter.std(correction=0))
            parameter.normal_(mean, deviation)


@contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    """Parameters and buffers are what they were afterwards: the same tensors with the same values."""
    tables: list[dict[str, Any]] = [table for m in model.modules() for table in (m._parameters, m._buffers)]
    saved = [{name: (t, t.clone()) for name, t in table.items() if t is not None} for table in tables]
    try:
        with torch.no_grad():
            yield
    finally:
        with torch.no_grad():
            for table, entries in zip(tables, saved, strict=True):
                for name, (tensor, values) in entries.items():
                    table[name] = tensor.copy_(values)
