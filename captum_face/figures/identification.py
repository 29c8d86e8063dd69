"""The figure of an identification."""

from __future__ import annotations

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from torch import Tensor

from captum_face._validation import require_positive_int
from captum_face.figures.explanation import _COLOURS, _EMPTY, _as_picture, _limit, _overlay
from captum_face.maps.signed import pixel_map, smooth
from captum_face.results.identification import Identification

__all__ = ["show_identification"]

_PARTS = ("what in the probe\nspeaks for the match", "what in the probe\nspeaks against it")
_OWN_PARTS = ("what in the match's\nimage speaks for it", "what in the match's\nimage speaks against it")


def show_identification(
    identification: Identification,
    *,
    columns: int = 5,
    sigma: float = 0.0,
    percentile: float = 99.5,
) -> Figure:
    """Draws a probe and its best matches, each with what in the probe speaks for it and against.

    A column for each match: its photo with rank, name and score, and below it the probe with the similarity
    and the dissimilarity map of that match. Where matches were explained too, their own maps stand below.
    All maps share one scale, so that colours compare across matches.

    Args:
        identification: From :func:`~captum_face.identify`.
        columns: Matches side by side; more go below.
        sigma: Smooth the maps by a Gaussian of so many pixels; the title says so. 0 shows them as they are.
        percentile: Absolute value at which the colour saturates, as a percentile over all maps.

    Returns:
        A matplotlib :class:`~matplotlib.figure.Figure` outside of pyplot's state.

    Raises:
        ValueError: ``columns`` below 1.
    """
    require_positive_int(columns, "columns")
    matches = identification.matches
    columns = min(columns, len(matches))
    probe = _as_picture(identification.probe[0])
    faces = [_as_picture(match.image[0]) for match in matches]
    maps = [_signed(match.attribution, sigma) for match in matches]
    own = [_signed(m.own_attribution, sigma) for m in matches if m.own_attribution is not None]
    limit = _limit(maps + own, percentile)
    per_band = 5 if own else 3
    bands = -(-len(matches) // columns)

    side = 1.7
    height = side * probe.shape[0] / probe.shape[1]
    figure = Figure(
        figsize=((columns + 1) * side + 1.0, bands * (per_band * height + 0.45) + 0.6),
        layout="constrained",
        dpi=150,
    )
    axes = figure.subplots(bands * per_band, columns + 1, squeeze=False)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.set_axis_off()
    for band in range(bands):
        rows = axes[band * per_band : (band + 1) * per_band]
        rows[0, 0].imshow(probe, interpolation="bilinear")
        label = "probe" if identification.name == "probe" else f"probe\n{_short(identification.name)}"
        rows[0, 0].set_title(label, fontsize=8.5, parse_math=False)
        for row, text in zip(rows[1:, 0], (*_PARTS, *_OWN_PARTS), strict=False):
            row.text(0.95, 0.5, text, transform=row.transAxes, ha="right", va="center", fontsize=8.5)
        for column in range(columns):
            index = band * columns + column
            if index == len(matches):
                break
            match = matches[index]
            panels = rows[:, column + 1]
            panels[0].imshow(faces[index], interpolation="bilinear")
            word = "accepted" if match.score >= identification.threshold else "rejected"
            panels[0].set_title(
                f"{index + 1}. {_short(match.name)}\nscore {match.score:.3f}: {word}",
                fontsize=8.5,
                parse_math=False,
            )
            _draw(panels[1:3], probe, maps[index] / limit)
            if own:
                _draw(panels[3:5], faces[index], own[index] / limit)
    bar = figure.colorbar(
        ScalarMappable(Normalize(-limit, limit), _COLOURS), ax=axes, shrink=0.8, pad=0.02, aspect=32
    )
    bar.set_ticks([-limit, 0, limit], labels=[f"−{limit:.2g}", "0", f"{limit:.2g}"])
    bar.set_label("against  ←  relevance  →  for the same person", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    verdict = identification.verdict
    notes = [identification.method, f"smoothed, σ = {sigma:g} px" if sigma else None, "all maps on one scale"]
    title = verdict[0].upper() + verdict[1:] + "\n" + " · ".join(note for note in notes if note)
    figure.suptitle(title, fontsize=10, parse_math=False)
    return figure


def _draw(panels: np.ndarray, face: np.ndarray, signed: np.ndarray) -> None:
    """What speaks for and what against, over one face; ``signed`` in [-1, 1]."""
    for axis, part in zip(panels, (signed.clip(min=0), signed.clip(max=0)), strict=True):
        axis.imshow(_overlay(face, part), interpolation="bilinear")
        if np.abs(part).max() < _EMPTY:
            # Said in words: a grey face alone looks like a figure that failed.
            axis.text(0.5, 0.04, "next to nothing", transform=axis.transAxes, ha="center", fontsize=7)


def _signed(attribution: Tensor, sigma: float) -> np.ndarray:
    return pixel_map(smooth(attribution.detach().float(), sigma))[0].cpu().numpy()


def _short(name: str, length: int = 22) -> str:
    """File names end in what tells them apart."""
    return name if len(name) <= length else "…" + name[-(length - 1) :]
