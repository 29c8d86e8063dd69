"""``captum-face align``."""

from __future__ import annotations

import re
from pathlib import Path

import click

from captum_face.cli._options import detector_option, max_megapixels_option, on_terminal, show_first
from captum_face.maps.templates import TEMPLATES
from captum_face.photos.folder import align_folder

__all__ = ["align"]


def _size(context: click.Context, parameter: click.Parameter, text: str | None) -> tuple[int, int] | None:
    """Height and width of ``112`` or ``96x112``, which is width by height."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+)(?:x(\d+))?", text.strip().lower())
    if found is None or not all(int(side) > 0 for side in found.groups(default=found[1])):
        raise click.BadParameter(f"expected a number of pixels such as 112, or WIDTHxHEIGHT, got {text!r}")
    return int(found[2] or found[1]), int(found[1])


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Folder for the crops and faces.csv.",
)
@click.option(
    "--template",
    type=click.Choice([*TEMPLATES]),
    default="arcface",
    show_default=True,
    help="Where eyes, nose and mouth are to lie.",
)
@click.option(
    "--size",
    callback=_size,
    metavar="PIXELS",
    help="Side of the crops, or WIDTHxHEIGHT.  [default: the template's]",
)
@detector_option
@max_megapixels_option
def align(
    folder: Path,
    output: Path,
    template: str,
    size: tuple[int, int] | None,
    detector: str | None,
    max_megapixels: float,
) -> None:
    """Cut the largest face out of every photo below FOLDER, as a model expects it.

    Crops are PNG files in folders as the photos are. The table faces.csv says for each photo the crop, its
    transform, box and landmarks, or why there is none; --detector takes it. The same command continues an
    interrupted run, and does photos that are new or have changed. The exit status is 1 if no photo could be
    aligned.
    """
    done = align_folder(
        folder,
        output,
        template,
        size,
        detector=detector,
        max_pixels=round(max_megapixels * 1e6),
        show_progress=on_terminal(),
    )
    show_first((f"{image}: {reason}" for image, reason in done.refused.items()), "table")
    show_first((f"{crop}: its photo is gone, and it is not in the table" for crop in done.gone), most=3)
    click.echo(f"{done}\nTable: {done.table}")
    if not done.aligned:
        raise click.exceptions.Exit(1)
