"""The figure of several methods' explanations of one pair."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from matplotlib.figure import Figure
from torch import Tensor

from captum_face._files import printable
from captum_face.attr.registry import null_baselines
from captum_face.attr.spec import display_name, display_parts
from captum_face.figures import _drawing as draw
from captum_face.maps.agreement import Agreement, agreement
from captum_face.pair.scores import decision_text

__all__ = ["ExplainedPair", "show_comparison"]

_SIDE = 1.6  # width of a panel in inches
_HEADINGS_EVERY = 6  # rows: a long sheet is read a screen at a time


class ExplainedPair(Protocol):
    """What a row of a comparison is drawn from, such as an :class:`~captum_face.Explanation`."""

    @property
    def method(self) -> str:
        """What to write beside the row."""

    @property
    def score(self) -> float:
        """The pair's similarity."""

    @property
    def threshold(self) -> float | None:
        """The verification threshold; None if there is none."""

    @property
    def images(self) -> tuple[Tensor, Tensor]:
        """``(1, C, H, W)`` each, in [0, 1]."""

    @property
    def attributions(self) -> tuple[Tensor, Tensor]:
        """``(1, C, H, W)`` each, positive = for the same person."""

    @property
    def names(self) -> tuple[str, str]:
        """What to write above the two images."""

    @property
    def remarks(self) -> Mapping[str, str]:
        """What the title says of how the maps came about, by topic."""


def show_comparison(
    explanations: Sequence[ExplainedPair],
    *,
    masks: tuple[Tensor, Tensor] | None = None,
    sigma: float = 0.0,
    percentile: float = 99.5,
) -> Figure:
    """Draws several methods' explanations of one pair, a row for each.

    Args:
        explanations: Of the same two images: :class:`~captum_face.Explanation` or anything else with the
            attributes of :class:`~captum_face.figures.ExplainedPair`. Methods measure relevance in different
            units, so each row has a scale of its own, shared by its four maps.
        masks: ``(1, H, W)`` or ``(H, W)`` bool for both faces: what is known to differ, drawn as outlines.
        sigma: Smooth the maps by a Gaussian of so many pixels; the title says so.
        percentile: Absolute value at which a row's colour saturates, as a percentile over its maps.

    Raises:
        ValueError: no explanations, of different images, or of different models (their scores differ).
    """
    if not explanations:
        raise ValueError("expected at least one explanation, got none")
    first = explanations[0]
    if any(
        not torch.equal(image, other)
        for e in explanations
        for image, other in zip(first.images, e.images, strict=True)
    ):
        raise ValueError("expected explanations of the same two images, got different ones")
    if any(not math.isclose(first.score, e.score, rel_tol=1e-3, abs_tol=1e-3) for e in explanations):
        scores = ", ".join(f"{e.method} {e.score:.3f}" for e in explanations)
        raise ValueError(f"expected explanations of one model's score, got different ones: {scores}")
    height = _SIDE * first.images[0].shape[-2] / first.images[0].shape[-1]
    rows = len(explanations)
    figure, axes = draw.new_grid(rows, 6, (6 * _SIDE + 1.2, rows * height + 0.8))
    for row, explanation in enumerate(explanations):
        pictures, maps = draw.pictures_and_maps(explanation.images, explanation.attributions, sigma)
        limit = draw.saturation(maps, percentile)
        label, small = _row_label(explanation.method)
        axes[row, 0].set_ylabel(printable(label), fontsize=7.5 if small else 10, parse_math=False)
        for side, panels in enumerate((axes[row, :3], axes[row, 3:])):
            heading = first.names[side] if row % _HEADINGS_EVERY == 0 else None
            draw.draw_row(panels, pictures[side], maps[side] / limit, heading)
    for side, mask in enumerate(masks or ()):
        draw.draw_outline(axes[:, 3 * side : 3 * side + 3], mask)
    notes = [
        "each row has its own scale",
        draw.smoothing_note(sigma),
        str(found) if (found := compared(explanations)) is not None else "",
        *_remarks(explanations),
        "outlined: what was changed" if masks is not None else "",
    ]
    draw.title(figure, decision_text(first.score, first.threshold), notes)
    return figure


def compared(explanations: Sequence[ExplainedPair]) -> Agreement | None:
    """How much the methods agree; null baselines, which explain nothing, are left out."""
    nulls = null_baselines()
    return agreement([e.attributions for e in explanations if e.method.partition(":")[0] not in nulls])


def _remarks(explanations: Sequence[ExplainedPair]) -> list[str]:
    """What is to be said of all rows, and then of some: once, with the methods that it is about."""
    shared = [
        remark
        for remark in dict.fromkeys(r for e in explanations for r in e.remarks.values())
        if all(remark in e.remarks.values() for e in explanations)
    ]
    methods: dict[str, list[str]] = {}
    for explanation in explanations:
        own = [remark for remark in explanation.remarks.values() if remark not in shared]
        if own:
            methods.setdefault(", ".join(own), []).append(display_name(explanation.method))
    return [*shared, *(f"{', '.join(who)}: {said}" for said, who in methods.items())]


def _row_label(method: str) -> tuple[str, bool]:
    """A method's name in lines of 14 letters, its options below, and whether that asks for small letters."""
    name, options = display_parts(method)
    lines = [*textwrap.wrap(name, 14), *options]
    return "\n".join(lines), bool(options)
