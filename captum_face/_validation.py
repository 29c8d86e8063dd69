"""Checks of user input. Each says what was expected, what came and what to do."""

from __future__ import annotations

import difflib
import math
import warnings
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import TypeAlias

import torch
from torch import Tensor

__all__ = [
    "Baselines",
    "not_differentiable",
    "require_baselines",
    "require_choice",
    "require_generator",
    "require_images",
    "require_labels",
    "require_pair",
    "require_positive",
    "require_positive_int",
    "require_scores",
    "require_threshold",
]

#: What stands in for hidden pixels, for both sides or for each: see :func:`require_baselines`.
Baselines: TypeAlias = str | float | Tensor | tuple[str | float | Tensor, str | float | Tensor]

# Images live in [0, 1]. Noise (NoiseTunnel, sensitivity_max) leaves that range a little, so the limit is
# one of scale: 0..255 images break it, noise of standard deviation 1 does not.
_SCALE_LIMIT = 10.0


def require_choice(value: object, choices: Iterable[str], what: str) -> str:
    """Returns ``value`` if it is one of ``choices``; else raises and names the nearest one.

    Args:
        value: What the user gave.
        choices: The names that exist.
        what: What the name is for, as the message shall call it (``"method"``).

    Raises:
        TypeError: ``value`` is not a string.
        ValueError: ``value`` is not among ``choices``.
    """
    names = list(choices)
    if not isinstance(value, str):
        raise TypeError(f"expected the name of a {what} ({', '.join(names)}), got {value!r}")
    if value in names:
        return value
    near = difflib.get_close_matches(value.lower(), names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"unknown {what} {value!r}: expected one of {', '.join(names)}{hint}")


def require_positive(value: object, what: str, *, or_zero: bool = False) -> float:
    """Returns ``value`` as a float if it is a finite number above 0 (a bool is none).

    Raises:
        TypeError: not a number.
        ValueError: NaN, infinite, negative, or 0 unless ``or_zero``.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"expected {what} as a number, got {value!r}")
    number = float(value)
    # `not (...)` also catches NaN.
    if not (0 < number < math.inf or (or_zero and number == 0)):
        raise ValueError(f"expected {what} {'of at least' if or_zero else 'above'} 0, got {value!r}")
    return number


def require_positive_int(value: object, what: str) -> int:
    """Returns ``value`` if it is an integer of at least 1 (a bool is none)."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ValueError(f"expected {what} to be an integer of at least 1, got {value!r}")
    return int(value)


def require_size(value: object, what: str) -> tuple[int, int] | None:
    """Height and width of images: two numbers, one for both, or None as it is."""
    if value is None:
        return None
    sides = (value, value) if isinstance(value, int) else value
    if not isinstance(sides, Sequence) or isinstance(sides, str) or len(sides) != 2:
        raise TypeError(f"expected {what} as (height, width) or one number for both, got {value!r}")
    return require_positive_int(sides[0], what), require_positive_int(sides[1], what)


def require_labels(same: object, n: int) -> Tensor:
    """Returns verification labels as a bool tensor ``(n,)`` on the CPU, True for genuine pairs.

    Args:
        same: Booleans, or numbers that are 0 or 1: a tensor, an array or a sequence.
        n: How many pairs there are.

    Raises:
        TypeError: not numbers.
        ValueError: another number of labels, or one that is neither 0 nor 1.
    """
    try:
        labels = torch.as_tensor(same).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"expected labels as {n} values of 0 or 1, got {type(same).__name__}") from error
    if labels.shape != (n,):
        raise ValueError(f"expected one label per pair, shape ({n},), got {tuple(labels.shape)}")
    wrong = (labels != 0) & (labels != 1)
    if wrong.any():
        first = int(wrong.nonzero()[0])
        raise ValueError(
            f"expected labels 1 (same person) or 0, got {labels[first].item()!r} at index {first}"
        )
    return labels.bool()


def require_threshold(value: object, limits: tuple[float, float] = (-math.inf, math.inf)) -> float:
    """Returns a verification threshold as a float; scalars of numpy and torch pass.

    Args:
        value: What the user gave.
        limits: Lowest and highest value that the score can take: beyond them every pair is decided alike.

    Raises:
        TypeError: not a number.
        ValueError: NaN, infinite, or outside the limits.
    """
    if isinstance(value, Tensor) and value.ndim == 0:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"expected threshold as a number in units of the score, got {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"expected a finite threshold in units of the score, got {value!r}")
    threshold = float(value)
    if not limits[0] <= threshold <= limits[1]:
        raise ValueError(
            f"expected a threshold that the score can reach, {limits[0]:g} to {limits[1]:g}, "
            f"got {threshold:g}"
        )
    return threshold


def require_images(images: object, what: str = "images") -> Tensor:
    """Returns ``images`` if they are what the package calls images: float ``(N, C, H, W)`` in [0, 1].

    Values a little outside [0, 1] pass (noise adds them); values of another scale do not. Images that
    look normalised already (a fifth of their values below 0) pass with a warning.

    Raises:
        TypeError: not a tensor, or integer values.
        ValueError: another number of dimensions, no image, NaN, infinite, or a scale like 0..255.
    """
    if not isinstance(images, Tensor):
        raise TypeError(f"expected {what} as a torch.Tensor (N, C, H, W), got {type(images).__name__}")
    if images.ndim != 4 or 0 in images.shape:
        hint = "; add the batch dimension with image[None]" if images.ndim == 3 else ""
        raise ValueError(f"expected {what} of shape (N, C, H, W), got {tuple(images.shape)}{hint}")
    if not images.is_floating_point():
        raise TypeError(
            f"expected {what} as floats in [0, 1], got {images.dtype}; convert with images.float() / 255"
        )
    low, high = (float(v) for v in torch.aminmax(images.detach()))
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"expected finite {what}, got NaN or infinite values; check how they were read")
    if low < -_SCALE_LIMIT or high > _SCALE_LIMIT:
        raise ValueError(
            f"expected {what} in [0, 1], got values from {low:.4g} to {high:.4g}; "
            "if they are 0..255, divide by 255"
        )
    if low < -0.5 and float((images.detach() < 0).float().mean()) > 0.2:
        warnings.warn(
            f"{what} reach from {low:.3g} to {high:.3g} and look normalised already; expected [0, 1], with "
            "the normalisation inside PairSimilarity(preprocess=...)",
            UserWarning,
            stacklevel=3,
        )
    return images


def require_pair(inputs: object) -> tuple[Tensor, Tensor]:
    """Returns the two images of ``inputs`` after :func:`require_images` and a look at both together.

    Raises:
        TypeError: not two tensors, or of two dtypes.
        ValueError: shapes or devices that do not match; batches may differ where one of them is 1.
    """
    if not isinstance(inputs, (tuple, list)) or len(inputs) != 2:
        came = f"{len(inputs)} of them" if isinstance(inputs, (tuple, list)) else type(inputs).__name__
        raise TypeError(f"expected inputs as a pair (image_a, image_b), got {came}")
    image_a, image_b = (
        require_images(image, f"image_{side}") for image, side in zip(inputs, "ab", strict=True)
    )
    shapes = f"image_a {tuple(image_a.shape)} and image_b {tuple(image_b.shape)}"
    if image_a.shape[1:] != image_b.shape[1:]:
        raise ValueError(f"expected two images of the same channels and size, got {shapes}")
    if image_a.shape[0] != image_b.shape[0] and 1 not in (image_a.shape[0], image_b.shape[0]):
        raise ValueError(f"expected equal batches, or a batch of 1 on one side, got {shapes}")
    if image_a.dtype != image_b.dtype:
        raise TypeError(f"expected one dtype, got image_a {image_a.dtype} and image_b {image_b.dtype}")
    if image_a.device != image_b.device:
        raise ValueError(
            f"expected one device, got image_a on {image_a.device} and image_b on {image_b.device}"
        )
    return image_a, image_b


def require_scores(scores: object, n: int, like: Tensor) -> Tensor:
    """Returns the answer of a scoring function as a tensor ``(n,)`` on the device of ``like``.

    Numpy arrays and lists pass, as a service or onnxruntime answers with them, and ``(n, 1)`` too.

    Raises:
        TypeError: not numbers.
        ValueError: another number of scores, NaN or infinite.
    """
    try:
        scores = torch.as_tensor(scores, device=like.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"expected scores as a tensor of shape ({n},), got {type(scores).__name__}"
        ) from error
    if scores.shape == (n, 1):
        scores = scores[:, 0]
    if scores.shape != (n,):
        raise ValueError(
            f"expected one score per pair, shape ({n},), got {tuple(scores.shape)}; forward_func takes "
            "(image_a, image_b) batches and answers with one score each"
        )
    if not torch.isfinite(scores).all():
        raise ValueError("expected finite scores, got NaN or infinite ones")
    return scores


def require_baselines(
    baselines: object, images: tuple[Tensor, Tensor]
) -> tuple[float | Tensor, float | Tensor]:
    """Returns what stands in for hidden pixels of each side: a number, or a tensor of 1 or N images.

    N may be the number of pairs where the side itself has a batch of 1.

    Args:
        baselines: A number, a tensor, or a tuple of two such, as Captum takes them; ``"partner"`` for the
            other image of the pair.
        images: The images of both sides.

    Raises:
        TypeError: none of these.
        ValueError: a tensor that does not fit the images, NaN or another scale.
    """
    sides = baselines if isinstance(baselines, (tuple, list)) else (baselines, baselines)
    if len(sides) != 2:
        raise ValueError(f"expected baselines for two sides, got {len(sides)}")
    pairs = max(len(image) for image in images)
    sides = tuple(
        partner if isinstance(side, str) and require_choice(side, ("partner",), "baseline") else side
        for side, partner in zip(sides, reversed(images), strict=True)
    )
    first, second = (_side_baseline(side, image, pairs) for side, image in zip(sides, images, strict=True))
    return first, second


def _side_baseline(baseline: object, image: Tensor, pairs: int) -> float | Tensor:
    if isinstance(baseline, Tensor) and baseline.ndim == 0:
        baseline = baseline.item()
    if isinstance(baseline, Real) and not isinstance(baseline, bool):
        baseline = float(baseline)
        if not abs(baseline) <= _SCALE_LIMIT:
            raise ValueError(f"expected baselines in [0, 1], 0 = black, got {baseline}")
        return baseline
    if not isinstance(baseline, Tensor):
        raise TypeError(f"expected baselines as a number or a tensor, or two of them, got {baseline!r}")
    if baseline.ndim == 3:
        baseline = baseline[None]
    require_images(baseline, "baselines")
    if baseline.shape[0] not in (1, len(image), pairs) or any(
        have not in (1, want) for have, want in zip(baseline.shape[1:], image.shape[1:], strict=True)
    ):
        raise ValueError(
            f"expected baselines that fit images of shape {tuple(image.shape)}, got {tuple(baseline.shape)}"
        )
    return baseline.to(image)


def require_generator(seed: int | None, generator: torch.Generator | None) -> torch.Generator | None:
    """Returns the generator that ``seed`` or ``generator`` asks for; None is torch's global one.

    Raises:
        TypeError: not an integer, or not a generator.
        ValueError: both are given.
    """
    if seed is not None and generator is not None:
        raise ValueError("expected seed or generator, got both; give one of them")
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"expected generator as a torch.Generator, got {type(generator).__name__}")
    if seed is None:
        return generator
    if isinstance(seed, bool) or not isinstance(seed, Integral):
        raise TypeError(f"expected seed as an integer, got {seed!r}")
    if not -(2**63) <= seed < 2**64:
        raise ValueError(f"expected a seed of 64 bits, got {seed!r}")
    return torch.Generator().manual_seed(int(seed))


def not_differentiable() -> TypeError:
    """The error for an embedding model that has no gradient for its images, with what to do."""
    return TypeError(
        "expected an embedding model that can be differentiated, got one whose embedding has no gradient for "
        "the image (onnxruntime, numpy, or no_grad inside); use CorrRISE, which needs scores alone, or "
        "captum_face.models.load_onnx for an .onnx file"
    )
