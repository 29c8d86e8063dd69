"""``captum-face benchmark``."""

from __future__ import annotations

from pathlib import Path

import click
import torch
from torch import Tensor

from captum_face.benchmark import benchmark as run_benchmark
from captum_face.benchmark._distribution import distributed
from captum_face.cli._options import (
    METHOD,
    alignment_option,
    check_methods,
    complete_methods,
    model_options,
    named_methods,
    on_terminal,
    pairs_options,
    read_listed_pairs,
    ready,
    require_arcface,
    running_options,
    score_option,
    show_first,
    threshold_option,
)
from captum_face.data import FacePairs
from captum_face.models import load_pair
from captum_face.pair.embedding import device_of
from captum_face.pair.similarity import PairSimilarity

__all__ = ["benchmark"]


@click.command()
@pairs_options
@click.option(
    "--limit", type=click.IntRange(min=2), help="Maximum number of pairs, balanced between the classes."
)
@model_options
@alignment_option
@score_option
@threshold_option("that of the pairs' equal error rate")
@click.option(
    "--method",
    "methods",
    multiple=True,
    metavar=METHOD,
    shell_complete=complete_methods,
    help="A method with its options, as for the command explain, or all; repeatable.  [default: all]",
)
@click.option("--metric", "metrics", multiple=True, help="Instead of the protocol's; repeatable.")
@click.option(
    "--protocol",
    "protocols",
    multiple=True,
    default=("swap",),
    show_default=True,
    help="swap; published for the papers' black deletion and insertion; sanity; repeatable.",
)
@click.option("--seed", default=0, show_default=True, help="Seed of all random choices.")
@click.option(
    "--examples", type=click.IntRange(min=0), default=4, show_default=True, help="Pairs shown in the report."
)
@click.option(
    "--format",
    "figure_format",
    type=click.Choice(("png", "pdf", "svg")),
    help="Write the report's pictures into figures/ of the folder too, in this format.",
)
@running_options
@click.option(
    "--output",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for tables and report; what a run before has left there is reused.",
)
def benchmark(
    pair_list: Path | None,
    bin_file: Path | None,
    synthetic: int | None,
    images: Path | None,
    limit: int | None,
    model: str,
    weights: Path | None,
    preprocess: str | None,
    alignment: str | None,
    score: str | None,
    threshold: float | None,
    methods: tuple[str, ...],
    metrics: tuple[str, ...],
    protocols: tuple[str, ...],
    seed: int,
    examples: int,
    figure_format: str | None,
    output: Path,
) -> None:
    """Measure methods on many pairs: which maps are better than maps that explain nothing?

    Writes config.json, pairs.csv, metrics.csv, curves.csv and report.html. Run the same command again to
    continue an interrupted run. With one more method, metric or pair only what is new is computed; for pairs
    give --threshold, as that of the pairs moves with them. Under torchrun (torchrun --nproc-per-node 2 -m
    captum_face benchmark ...) the pairs are divided between the processes.
    """
    named = named_methods(methods)
    pairs = read_listed_pairs(pair_list, bin_file, synthetic, images, seed)
    if limit is not None and limit < len(pairs):
        pairs = pairs.balanced(limit, seed)
    pair = load_pair(
        model,
        weights=weights,
        preprocess=preprocess,
        score=score,
        threshold=threshold,
        alignment=alignment,
    )
    require_arcface(pair, synthetic)
    with distributed() as (rank, local_rank):
        pair = ready(pair, local_rank)
        check_methods(named, pair, _first_images(pairs, pair))
        result = run_benchmark(
            pair,
            pairs,
            output,
            methods=methods or ("all",),
            metrics=metrics,
            protocol=protocols,
            threshold=threshold,
            seed=seed,
            examples=examples,
            model_name=model,
            figures=figure_format,
            show_progress=on_terminal(),
        )
    if rank != 0:
        return
    show_first((f"failed: {line}" for line in result.failures), "report")
    click.echo(result.text())
    if result.unaligned:
        click.echo(
            f"{len(result.unaligned)} of {len(pairs.image_names)} images do not look like aligned faces: see "
            "the column unaligned of pairs.csv. Give --alignment if the model expects another alignment "
            "than ArcFace's"
        )
    if result.n_reused:
        click.echo(f"{result.n_computed} values computed, {result.n_reused} reused from {output}")
    click.echo(f"Report: {output / 'report.html'}")


def _first_images(pairs: FacePairs, pair: PairSimilarity) -> tuple[Tensor, Tensor] | None:
    """The images of the first pair that can be read and scored; the run itself names the others."""
    for index in range(min(len(pairs), 10)):
        try:
            face = pairs[index]
            images = face.image_a[None].to(device_of(pair)), face.image_b[None].to(device_of(pair))
            with pair.frozen(), torch.no_grad():
                pair(*images)
        except Exception:  # whatever a model raises
            continue
        return images
    return None
