"""``captum-face explain``."""

from __future__ import annotations

import json
from pathlib import Path

import click
import torch

from captum_face._files import write_text
from captum_face.attr import METHODS
from captum_face.attr.spec import MethodSpec
from captum_face.cli._options import (
    METHOD,
    alignment_option,
    check_file_names,
    cohort_option,
    complete_methods,
    format_option,
    model_options,
    named_methods,
    output_folder_option,
    progress_option,
    ready,
    refuse_thresholds,
    refuse_unsuitable,
    running_options,
    score_option,
    show_failed_checks,
    smooth_option,
    source_text,
    suitable_methods,
    threshold_option,
    with_cohort,
    writable,
)
from captum_face.data.images import load_image
from captum_face.figures import show_comparison
from captum_face.figures.comparison import compared
from captum_face.models import load_pair
from captum_face.pair.embedding import device_of
from captum_face.results._saving import save_figure
from captum_face.results.explanation import Explanation, comparison_summary
from captum_face.results.explanation import explain as explain_pair

__all__ = ["DEFAULT_METHODS", "explain"]

#: What runs without ``--method``: three methods of different kinds, as one map alone is not to be trusted.
DEFAULT_METHODS = ("fggb", "corrrise", "morph_gradients")


@click.command()
@click.argument("image_a", type=click.Path(path_type=Path))
@click.argument("image_b", type=click.Path(path_type=Path))
@model_options
@alignment_option
@score_option
@threshold_option()
@cohort_option
@click.option(
    "--method",
    "methods",
    multiple=True,
    metavar=METHOD,
    shell_complete=complete_methods,
    help=f"A method with its options, or all; repeatable.  [default: {', '.join(DEFAULT_METHODS)}]",
)
@running_options
@smooth_option
@format_option
@output_folder_option
def explain(
    image_a: Path,
    image_b: Path,
    model: str,
    weights: Path | None,
    preprocess: str | None,
    alignment: str | None,
    score: str | None,
    threshold: float | None,
    cohort: Path | None,
    methods: tuple[str, ...],
    sigma: float,
    figure_format: str,
    output: Path,
) -> None:
    """Explain why a model accepts or rejects the pair IMAGE_A, IMAGE_B.

    For each method the figure (.png), the maps (.npz) and a summary (.json) are written, each method as
    soon as it is done; their names begin with those of the images. With several methods there are also a
    figure of all of them and how much they agree. Without --method, and with --method all, methods that do
    not suit the model are skipped, each with a message. The images must be aligned as the model expects;
    nothing is cropped or resized.

    A method is one that the command methods lists, or a class of Captum by its dotted name:
    --method corrrise:n_masks=1000,smooth=3 --method captum.attr.IntegratedGradients:n_steps=20
    """
    # Everything that can be wrong is looked at before the first long computation.
    named = named_methods(methods)
    refuse_thresholds(named)
    optional = list(METHODS) if "all" in methods else [] if methods else list(DEFAULT_METHODS)
    labels = {spec.label for spec in named}
    specs = with_cohort([*map(MethodSpec.of, (n for n in optional if n not in labels)), *named], cohort)
    check_file_names(specs)
    images = load_image(image_a), load_image(image_b)
    pair = ready(
        load_pair(
            model,
            weights=weights,
            preprocess=preprocess,
            score=score,
            threshold=threshold,
            alignment=alignment,
        )
    )
    images = images[0].to(device_of(pair)), images[1].to(device_of(pair))
    with pair.frozen(), torch.no_grad():
        pair(*images)
    specs, problems = suitable_methods(specs, pair, images)
    refuse_unsuitable({label: error for label, error in problems.items() if label in labels})
    for label, error in problems.items():
        click.echo(f"{label}: skipped, {error}", err=True)
    writable(output)
    explanations: list[Explanation] = []
    for spec in specs:
        try:
            explanation = explain_pair(pair, image_a, image_b, method=spec, **progress_option(spec))
        except (ValueError, TypeError, ImportError, RuntimeError) as error:
            if spec.label in labels:
                raise
            # Not every method suits every model; that is no reason to lose the others.
            click.echo(f"{spec.label}: skipped, {error}", err=True)
            continue
        files = {"model": model, "weights": weights, "image_a": image_a, "image_b": image_b}
        explanation.settings.update({key: str(value) if value else None for key, value in files.items()})
        explanations.append(explanation)
        paths = explanation.save(output, format=figure_format, sigma=sigma)
        if not explanations[1:]:
            click.echo(explanation.verdict.capitalize() + source_text(explanation.threshold))
            show_failed_checks(explanation.failed_checks)
        click.echo(f"{spec.label}: {', '.join(str(path) for path in paths.values())}")
        for topic, remark in explanation.remarks.items():
            if topic not in explanation.failed_checks:
                click.echo(f"  {remark}")
    if not explanations:
        raise ValueError("no method could explain this pair with this model; the reasons stand above")
    if len(explanations) > 1:
        path = output / f"{explanations[0].pair_label}.comparison.{figure_format}"
        save_figure(show_comparison(explanations, sigma=sigma), path)
        agreed = compared(explanations)
        summary = json.dumps(comparison_summary(explanations, agreed), indent=2, ensure_ascii=False)
        write_text(path.with_suffix(".json"), summary + "\n")
        click.echo(f"comparison: {path}, {path.with_suffix('.json')}")
        if agreed is not None:
            click.echo(f"  {agreed}")
