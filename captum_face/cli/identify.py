"""``captum-face identify``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from captum_face.attr.spec import MethodSpec
from captum_face.cli._options import (
    METHOD,
    align_option,
    alignment_option,
    check_file_names,
    check_methods,
    cohort_option,
    complete_methods,
    detector_option,
    face_option,
    format_option,
    max_megapixels_option,
    model_options,
    output_folder_option,
    progress_option,
    ready,
    refuse_thresholds,
    running_options,
    score_option,
    show_failed_checks,
    show_first,
    smooth_option,
    source_text,
    threshold_option,
    with_cohort,
    writable,
)
from captum_face.data.images import require_file
from captum_face.models import load_pair
from captum_face.pair.embedding import device_of
from captum_face.pair.scores import decision_word, shown
from captum_face.photos.crops import load_crop
from captum_face.photos.detectors import resolve_detector
from captum_face.photos.finding import FaceChoice
from captum_face.results.identification import identify as identify_probe

__all__ = ["identify"]


@click.command()
@click.argument("probe", type=click.Path(path_type=Path))
@click.argument("gallery", metavar="GALLERY_DIR", type=click.Path(path_type=Path))
@model_options
@align_option
@face_option
@detector_option
@max_megapixels_option
@alignment_option
@score_option
@threshold_option()
@cohort_option
@click.option(
    "--method",
    default="corrrise",
    show_default=True,
    metavar=METHOD,
    shell_complete=complete_methods,
    help="A method with its options, as for the command explain.",
)
@click.option("--top-k", type=click.IntRange(min=1), default=5, show_default=True, help="Matches to explain.")
@click.option("--both", is_flag=True, help="Also explain each match's own image.")
@running_options
@smooth_option
@format_option
@output_folder_option
def identify(
    probe: Path,
    gallery: Path,
    model: str,
    weights: Path | None,
    preprocess: str | None,
    align: str,
    face: FaceChoice,
    detector: str | None,
    max_megapixels: float,
    alignment: str | None,
    score: str | None,
    threshold: float | None,
    cohort: Path | None,
    method: str,
    top_k: int,
    both: bool,
    sigma: float,
    figure_format: str,
    output: Path,
) -> None:
    """Search the images in GALLERY_DIR for PROBE, and explain the best matches.

    The figure (.png), the maps (.npz), a summary (.json) and the whole ranking (.csv) are written; their
    names begin with the probe's. Images below GALLERY_DIR that cannot be read are left out, and so is the
    probe's own file.

    Images of the model's size are taken as aligned crops. In all others the face is found and cut out as
    the model expects; photos without a face are left out.
    """
    (spec,) = with_cohort([MethodSpec.of(method)], cohort)
    refuse_thresholds([spec])
    check_file_names([spec])
    if output.resolve().is_relative_to(gallery.resolve()):
        raise ValueError(
            f"expected an output folder outside the gallery, got {output} in {gallery}: its figure would be "
            "searched the next time; choose another --output"
        )
    require_file(probe)
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
    photos: dict[str, Any] = {
        "align": align,
        "face": face,
        "detector": finder,
        "max_pixels": round(max_megapixels * 1e6),
    }
    image, _ = load_crop(probe, pair.template, pair.image_size, device=device_of(pair), **photos)
    check_methods([spec], pair, (image, image))
    writable(output)
    found = identify_probe(
        pair, probe, gallery, spec, top_k=top_k, both=both, **photos, **progress_option(spec)
    )
    files = {"model": model, "weights": weights, "probe": probe, "gallery": gallery}
    found.settings.update({key: str(value) if value else None for key, value in files.items()})
    paths = found.save(output, format=figure_format, sigma=sigma)
    show_first((f"left out: {name}: {reason}" for name, reason in found.left_out.items()), "summary")
    click.echo(f"{len(found.ranking)} images searched, {len(found.left_out)} left out")
    click.echo(f"{found.verdict[0].upper()}{found.verdict[1:]}{source_text(found.threshold)}\n")
    for rank, match in enumerate(found.matches, start=1):
        word = decision_word(match.score, found.threshold)
        click.echo(f"{rank:4}  {shown(match.score):8.4f}  {f'{word}  ' if word else ''}{match.name}")
    show_failed_checks(found.failed_checks)
    click.echo(f"\n{method}: {', '.join(str(path) for path in paths.values())}")
    for topic, remark in found.remarks.items():
        if topic not in found.failed_checks:
            click.echo(f"  {remark}")
