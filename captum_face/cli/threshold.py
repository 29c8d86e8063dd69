"""``captum-face threshold``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from captum_face._files import write_text
from captum_face.cli._options import (
    model_options,
    on_terminal,
    pairs_options,
    read_listed_pairs,
    ready,
    require_arcface,
    running_options,
    score_option,
    writable,
)
from captum_face.metrics.calibration import listed_people, operating_point, require_far
from captum_face.metrics.verification import pair_scores
from captum_face.models import load_pair
from captum_face.results._saving import versions

__all__ = ["threshold"]


@click.command()
@pairs_options
@model_options
@score_option
@running_options
@click.option("--far", type=float, required=True, help="The false match rate to allow, such as 0.01.")
@click.option("--seed", default=0, show_default=True, help="Seed of the bootstrap, and of synthetic pairs.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A .json file for the result, which --threshold of other commands takes.",
)
def threshold(
    pair_list: Path | None,
    bin_file: Path | None,
    synthetic: int | None,
    images: Path | None,
    model: str,
    weights: Path | None,
    preprocess: str | None,
    score: str | None,
    far: float,
    seed: int,
    output: Path | None,
) -> None:
    """Choose a verification threshold by a false match rate on pairs of known identity.

    Prints the threshold, its error rates and the equal error rate, with 95 % confidence intervals from a
    bootstrap over people. A rate for which the list has too few impostor pairs is refused. Take other
    people's pairs than those you evaluate on.
    """
    pairs = read_listed_pairs(pair_list, bin_file, synthetic, images, seed)
    require_far(far, int((~pairs.same).sum()))
    if output is not None:
        writable(output.parent)
    pair = ready(load_pair(model, weights=weights, preprocess=preprocess, score=score))
    require_arcface(pair, synthetic)
    people = listed_people(pairs)
    scores = pair_scores(pair, pairs, show_progress=on_terminal())
    found = operating_point(scores, pairs.same, far, people=people, seed=seed, score=pair.score)
    if output is not None:
        summary = found.summary() | {
            "source": f"{found.threshold.source} of {Path(pairs.source).name} with {model}",
            "score": pair.score.name,
            "model": model,
            "weights": None if weights is None else str(weights),
            "preprocess": repr(pair.preprocess),
            "pairs": pairs.source,
            "versions": versions(),
        }
        write_text(output, json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
    click.echo(str(found))
    if output is not None:
        click.echo(f"Result: {output}")
