"""Figures of what a decoder draws."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from captum_face.decoder.counterfactuals import Counterfactual
from captum_face.decoder.network import FaceDecoder, decode
from captum_face.decoder.regions import ChannelRegions
from captum_face.figures import _drawing as draw
from captum_face.figures._look import AnyFigure, root
from captum_face.figures._style import styled
from captum_face.pair.scores import ScoreValue, decision_text, shown, shown_text
from captum_face.pair.similarity import PairSimilarity

__all__ = ["show_channels", "show_counterfactual", "show_reconstructions"]


@styled
def show_reconstructions(pair: PairSimilarity, decoder: FaceDecoder, images: Tensor) -> Figure:
    """Draws images above their reconstructions, with the cosine of both embeddings.

    Args:
        pair: The model.
        decoder: Its decoder.
        images: ``(N, C, H, W)`` in [0, 1], such as held-out ones.

    Cost: 2 N forward passes of the model, N of the decoder.
    """
    with pair.frozen(), torch.no_grad():
        embeddings = pair.embed(images)
        drawn = decode(decoder, embeddings).to(images)
        cosines = torch.cosine_similarity(pair.embed(drawn), embeddings)
    figure, axes = _grid(2, len(images), images)
    for column, (image, picture, cosine) in enumerate(zip(images, drawn, cosines.tolist(), strict=True)):
        draw.draw_picture(axes[0, column], draw.as_picture(image))
        draw.draw_picture(axes[1, column], draw.as_picture(picture), f"{cosine:.2f}", fontsize=8)
    draw.wrapped_title(figure, "images, and their reconstructions with the cosine of both embeddings")
    return root(figure)


@styled
def show_channels(found: ChannelRegions, images: Tensor, *, count: int = 12, columns: int = 6) -> Figure:
    """Draws where the strongest channels draw, over the mean face.

    Args:
        found: From :func:`~captum_face.decoder.channel_regions`.
        images: The faces it was made from.
        count: How many channels, the strongest first; each has its own scale.
        columns: Side by side.
    """
    chosen = found.strength.argsort(descending=True)[:count].tolist()
    figure, axes = _grid(-(-len(chosen) // columns), min(columns, len(chosen)), images, below=0.25)
    mean = draw.as_picture(images.mean(0)).mean(2)
    what = "direction" if found.directions is not None else "channel"
    for axis, channel in zip(axes.flat, chosen, strict=False):
        change = found.maps[channel].float().cpu().numpy()
        axis.imshow(mean, cmap="gray", vmin=-0.4, vmax=1.2)
        axis.imshow(change, cmap="magma", alpha=change / (change.max() or 1))
        density = float(found.density[channel].max())
        name = found.region(channel).replace("_", " ")
        axis.set_title(f"{what} {channel}\n{name} × {density:.1f}", fontsize=8)
    draw.wrapped_title(
        figure,
        f"where the picture changes without the {what}, over the mean face; × density in its densest region",
    )
    return root(figure)


@styled
def show_counterfactual(found: Counterfactual) -> Figure:
    """Draws A, A with ever more of B's channels, and B; below, where each picture differs from the first.

    Args:
        found: From :func:`~captum_face.decoder.counterfactual`. The differences share one scale.
    """
    count, dimensions = len(found.counts), len(found.order)
    figure, axes = _grid(2, count + 2, found.images[0], below=0.2)
    for axis, image, name in zip(axes[0, [0, -1]], found.images, ("image A", "image B"), strict=True):
        draw.draw_picture(axis, draw.as_picture(image[0]), name, fontsize=8)
    changes = (found.pictures - found.pictures[0]).abs().mean(1).cpu().numpy()
    limit = float(changes.max()) or 1.0
    distance = getattr(found.threshold, "distance", None)
    scores = zip(found.counts, found.scores.tolist(), found.picture_scores.tolist(), strict=True)
    for column, (n, score, drawn) in enumerate(scores, start=1):
        reads = shown_text(ScoreValue(score, distance=distance), 2)
        heading = f"{n} of {dimensions} from B\n{reads}\n(the picture's {shown(drawn, distance):.2f})"
        picture = draw.as_picture(found.pictures[column - 1])
        draw.draw_picture(axes[0, column], picture, heading, fontsize=7, bold=score >= found.threshold)
        axes[1, column].imshow(changes[column - 1], cmap="magma", vmin=0, vmax=limit)
    axes[1, 1].set_title("changed:", fontsize=8)
    verdict = decision_text(float(found.scores[0]), found.threshold).capitalize()
    way = (
        "; not even all of B's channels give a match"
        if found.needed is None
        else f"; a match with {found.needed} of {dimensions} channels from B"
        if found.needed
        else ""
    )
    draw.wrapped_title(figure, verdict + way + " (bold: accepted)")
    return root(figure)


def _grid(rows: int, columns: int, images: Tensor, below: float = 0.0) -> tuple[AnyFigure, np.ndarray]:
    """A figure for rows of faces; ``below``: room for titles, in inches a row."""
    height = 1.3 * images.shape[-2] / images.shape[-1] + below
    return draw.new_grid(rows, columns, (1.3 * columns, rows * height + 0.6))
