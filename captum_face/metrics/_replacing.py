"""The engine of both kinds of curve: pixels are ranked by a map, and replaced step by step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from captum_face._validation import require_baselines, require_choice, require_generator, require_positive_int
from captum_face.maps.signed import pixel_map, smooth
from captum_face.pair.passes import in_passes

__all__ = ["Replacing", "side_map"]

_MODES = ("deletion", "insertion")
_ORDERS = ("similar", "dissimilar", "irrelevant")
_FILLS = ("black", "mean", "blur", "swap")

_BLUR = 10 / 112
"""Standard deviation of ``fill="blur"`` as a share of the image's shorter side: a face without features."""


def side_map(attributions: object, side: int, image: Tensor) -> Tensor:
    """The signed map of one side, ``(N, H, W)`` float64 on the CPU.

    Args:
        attributions: ``(attr_a, attr_b)`` as a caller gave them.
        side: 0 for image A, 1 for image B.
        image: ``(N, C, H, W)``: what the map belongs to.

    Raises:
        TypeError: no pair, or no attributions of this side.
        ValueError: attributions of another shape, or that are not finite.
    """
    if not isinstance(attributions, (tuple, list)) or len(attributions) != 2:
        raise TypeError(
            f"expected attributions as a pair (attr_a, attr_b), got {type(attributions).__name__}"
        )
    attr, name = attributions[side], "ab"[side]
    if attr is None:
        raise TypeError(f"expected the attribution of image {name}, whose pixels are replaced, got None")
    signed = pixel_map(attr).detach().cpu().double()
    if signed.shape != (len(image), *image.shape[-2:]):
        raise ValueError(
            f"expected attributions for {len(image)} images of {image.shape[-2]}x{image.shape[-1]} pixels, "
            f"the shape of image_{name}, got shape {tuple(attr.shape)}"
        )
    return signed


@dataclass(frozen=True, eq=False)
class Replacing:
    """How pixels are replaced; :func:`~captum_face.metrics.perturbation_curve` says what each field means.

    Raises:
        ValueError: unknown names, steps or cells below 1.
    """

    mode: str
    order: str
    fill: Any
    cohort: Any
    n_steps: int
    patch_size: int
    seed: int

    def __post_init__(self) -> None:
        require_choice(self.mode, _MODES, "mode")
        require_choice(self.order, _ORDERS, "order")
        require_positive_int(self.n_steps, "n_steps")
        require_positive_int(self.patch_size, "patch_size")

    @property
    def fractions(self) -> Tensor:
        """The share of pixels replaced at each step, ``(n_steps + 1,)`` float64."""
        return torch.linspace(0, 1, self.n_steps + 1, dtype=torch.float64)

    def protocol(self) -> dict[str, Any]:
        """All of it as a curve names it."""
        return {
            "mode": self.mode,
            "order": self.order,
            "fill": self.fill if isinstance(self.fill, str) else "tensor",
            "n_steps": self.n_steps,
            "patch_size": self.patch_size,
            "seed": self.seed,
        }

    def fills(self, images: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """What replaced pixels show on both sides, ``(N, C, H, W)`` each.

        Raises:
            ValueError: an unknown fill, one that does not fit the images, a cohort where none is used, or
                none where one is.
        """
        fill: Any = self.fill
        if isinstance(fill, str):
            require_choice(fill, _FILLS, "fill")
        if isinstance(fill, str) and fill == "swap" and self.order != "dissimilar":
            if self.cohort is None:
                raise ValueError(
                    "expected cohort=, aligned faces of other people, for fill='swap' with "
                    f"order={self.order!r}, got none"
                )
            fill = self.cohort
        elif self.cohort is not None:
            raise ValueError("expected cohort= only with fill='swap' and an order that is not 'dissimilar'")
        if not isinstance(fill, str):
            given = require_baselines(fill, images)
        elif fill == "swap":
            given = (images[1], images[0])
        else:
            made = {
                "black": lambda image: image.new_zeros(()),
                "mean": lambda image: image.mean((2, 3), keepdim=True),
                "blur": lambda image: smooth(image, _BLUR * min(image.shape[-2:])),
            }[fill]
            given = (made(images[0]), made(images[1]))
        first, second = (
            torch.as_tensor(value).to(image).expand_as(image)
            for value, image in zip(given, images, strict=True)
        )
        return first, second

    def ranks(self, signed: Tensor) -> Tensor:
        """How many pixels (or cells) of a map ``(N, H, W)`` are replaced before each, of its shape, int64."""
        evidence = {"similar": signed, "dissimilar": -signed, "irrelevant": -signed.abs()}[self.order]
        size, cell = evidence.shape[-2:], self.patch_size
        if cell > 1:
            rows, columns = (torch.arange(side) // cell for side in size)
            labels = rows[:, None] * -(-size[1] // cell) + columns
            sums = torch.zeros(len(evidence), self._n_ranks(signed), dtype=torch.float64)
            flat = labels.flatten().expand(len(evidence), -1)
            units = sums.scatter_add(1, flat, evidence.flatten(1)) / labels.flatten().bincount()
        else:
            labels, units = None, evidence.flatten(1)
        shuffled = torch.randperm(units.shape[1], generator=require_generator(self.seed, None))
        # A stable sort keeps the shuffled order among equals, so that no corner comes first.
        order = shuffled[units[:, shuffled].argsort(dim=1, descending=True, stable=True)]
        places = torch.arange(units.shape[1]).expand_as(order)
        ranks = torch.empty_like(order).scatter_(1, order, places)
        return (ranks if labels is None else ranks[:, labels.flatten()]).reshape(evidence.shape)

    def replaced(self, images: Tensor, fills: Tensor, ranks: Tensor, row: Tensor, step: Tensor) -> Tensor:
        """The images of some rows at a step of each, ``(m, C, H, W)``.

        Args:
            images: ``(N, C, H, W)``, intact.
            fills: What replaced pixels show, likewise.
            ranks: Of :meth:`ranks`, on the images' device.
            row: ``(m,)``.
            step: ``(m,)``, from 0 to ``n_steps``.
        """
        # In whole numbers: rounded fractions would now and then take one pixel too many.
        first = ranks[row] * self.n_steps < (step * self._n_ranks(ranks))[:, None, None].to(ranks.device)
        hidden = first if self.mode == "deletion" else ~first
        return torch.where(hidden[:, None], fills[row], images[row])

    def scores(
        self, score: Callable[[Tensor, Tensor], Tensor], n: int, steps: range, size: int, bar: Any
    ) -> Tensor:
        """Scores of n rows at each of some steps, ``(n, len(steps), ...)``.

        Args:
            score: From rows and steps, ``(m,)`` each, to ``(m, ...)``.
            n: Rows.
            steps: One after the other.
            size: Points in one pass; half as many from where memory runs out.
            bar: A progress bar over the points.
        """
        parts = []
        points = torch.arange(n * len(steps))
        for part in in_passes(
            lambda chunk: score(chunk // len(steps), chunk % len(steps) + steps.start), points, size
        ):
            parts.append(part)
            bar.update(len(part))
        return torch.cat(parts).unflatten(0, (n, len(steps)))

    def _n_ranks(self, maps: Tensor) -> int:
        return math.prod(-(-side // self.patch_size) for side in maps.shape[-2:])
