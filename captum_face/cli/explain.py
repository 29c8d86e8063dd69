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
    chosen_model,
    cohort_option,
    complete_methods,
    format_option,
    named_methods,
    optional_model_options,
    output_folder_option,
    photo_options,
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
from captum_face.data.images import require_file
from captum_face.figures import show_comparison
from captum_face.figures.comparison import compared
from captum_face.models import load_pair
from captum_face.photos.detectors import resolve_detector
from captum_face.photos.finding import FaceChoice
from captum_face.results._saving import save_figure
from captum_face.results.explanation import Explanation, comparison_summary, load_crops, name_of
from captum_face.results.explanation import explain as explain_pair

__all__ = ["DEFAULT_METHODS", "explain"]

#: What runs without ``--method``: three methods of different kinds, as one map alone is not to be trusted.
DEFAULT_METHODS = ("fggb", "corrrise", "morph_gradients")


@click.command()
@click.argument("image_a", type=click.Path(path_type=Path))
@click.argument("image_b", type=click.Path(path_type=Path))
@optional_model_options
@photo_options
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
@click.option(
    "--on-photos/--no-on-photos",
    default=None,
    help="Draw the maps on the photos, too (.photos.png).  [default: where an image is a photo]",
)
@output_folder_option
def explain(
    image_a: Path,
    image_b: Path,
    model: str | None,
    weights: Path | None,
    preprocess: str | None,
    align: str,
    face: FaceChoice,
    face_a: FaceChoice,
    face_b: FaceChoice,
    detector: str | None,
    max_megapixels: float,
    alignment: str | None,
    score: str | None,
    threshold: float | None,
    cohort: Path | None,
    methods: tuple[str, ...],
    sigma: float,
    figure_format: str,
    on_photos: bool | None,
    output: Path,
) -> None:
    """Explain why a model accepts or rejects the pair IMAGE_A, IMAGE_B.

    For each method the figure (.png), the maps (.npz) and a summary (.json) are written, each method as
    soon as it is done; their names begin with those of the images. With several methods there are also a
    figure of all of them and how much they agree. Without --method, and with --method all, methods that do
    not suit the model are skipped, each with a message.

    Images of the model's size are taken as aligned crops. In all others the face is found and cut out as
    the model expects, and the maps are drawn on the photos, too.

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
    model = chosen_model(model)
    for image in (image_a, image_b):  # before a model is loaded, which takes longer
        require_file(image)
    finder = None if detector is None else resolve_detector(detector)
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
    loaded = load_crops(
        pair,
        (image_a, image_b),
        names=(name_of(image_a, ""), name_of(image_b, "")),
        align=align,
        faces=(face_a, face_b),
        among_several=face,
        detector=finder,
        max_pixels=round(max_megapixels * 1e6),
    )
    images, crops = (loaded[0][0], loaded[1][0]), (loaded[0][1], loaded[1][1])
    if on_photos and not any(crops):
        raise ValueError(
            "expected a photo with --on-photos, got two images that are taken as they are; --align always "
            "aligns them"
        )
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
            explanation = explain_pair(
                pair,
                crops[0] or image_a,
                crops[1] or image_b,
                method=spec,
                align="never",
                **progress_option(spec),
            )
        except (ValueError, TypeError, ImportError, RuntimeError) as error:
            if spec.label in labels:
                raise
            # Not every method suits every model; that is no reason to lose the others.
            click.echo(f"{spec.label}: skipped, {error}", err=True)
            continue
        files = {"model": model, "weights": weights, "image_a": image_a, "image_b": image_b}
        explanation.settings.update({key: str(value) if value else None for key, value in files.items()})
        explanations.append(explanation)
        paths = explanation.save(output, format=figure_format, on_photos=on_photos, sigma=sigma)
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
