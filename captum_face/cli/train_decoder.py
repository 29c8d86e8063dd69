"""``captum-face train-decoder``."""

from __future__ import annotations

from pathlib import Path

import click

from captum_face.cli._options import (
    device_option,
    ending_option,
    model_options,
    on_terminal,
    precision_option,
    ready,
    require_figure_path,
    show_first,
    writable,
)
from captum_face.data import read_faces, render_faces
from captum_face.decoder import (
    DecoderReport,
    DecoderSettings,
    load_decoder,
    split_people,
    training_differences,
)
from captum_face.decoder import train_decoder as train
from captum_face.figures import show_reconstructions
from captum_face.maps.templates import TEMPLATES
from captum_face.models import load_pair
from captum_face.pair.embedding import device_of
from captum_face.photos.crops import realign
from captum_face.results._saving import save_figure

__all__ = ["train_decoder"]


@click.command()
@click.option(
    "--images",
    type=click.Path(path_type=Path),
    help="Folder of aligned face images: NAME/1.png or NAME_1.png, so that people are known.",
)
@click.option(
    "--synthetic", type=click.IntRange(min=1), help="Number of rendered people to use instead of images."
)
@model_options
@device_option
@precision_option
@click.option(
    "--output",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="The decoder's file, .safetensors.",
)
@click.option(
    "--figure",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also draw held-out faces beside their reconstructions.",
)
@ending_option
@click.option("--steps", type=click.IntRange(min=1), default=DecoderSettings.steps, show_default=True)
@click.option(
    "--batch-size", type=click.IntRange(min=2), default=DecoderSettings.batch_size, show_default=True
)
@click.option("--learning-rate", type=float, default=DecoderSettings.learning_rate, show_default=True)
@click.option(
    "--perceptual",
    type=click.FloatRange(min=0),
    default=DecoderSettings.perceptual,
    show_default=True,
    help="Weight of the model's own cosine in the loss; 0 for models without gradients.",
)
@click.option("--augment/--no-augment", default=True, show_default=True, help="Mirror, move and tint images.")
@click.option("--seed", default=0, show_default=True, help="Seed of all random choices.")
def train_decoder(
    images: Path | None,
    synthetic: int | None,
    model: str,
    weights: Path | None,
    preprocess: str | None,
    output: Path,
    figure: Path | None,
    figure_format: str | None,
    steps: int,
    batch_size: int,
    learning_rate: float,
    perceptual: float,
    augment: bool,
    seed: int,
) -> None:
    """Train the decoder that --method reconstruction needs, and measure it on people held out.

    Run the same command again to continue an interrupted run. A finished decoder is not trained again, and a
    decoder of another training is not overwritten.
    """
    if (images is None) == (synthetic is None):
        raise click.UsageError("expected one of --images and --synthetic")
    if figure is not None:  # before hours of training, not after
        if figure_format is not None:
            figure = figure.with_suffix(f".{figure_format}")
        require_figure_path(figure)
    writable(output.parent)
    pair = ready(load_pair(model, weights=weights, preprocess=preprocess))
    people: list[str] | None = None
    if images is not None:
        faces, people, left_out = read_faces(images)
        show_first(f"left out: {name}: {reason}" for name, reason in left_out.items())
    else:
        faces = render_faces(synthetic or 0, seed)
        if pair.template is not None and pair.alignment != "arcface":
            faces = realign(faces, TEMPLATES["arcface"], pair.template)
    faces = faces.to(device_of(pair))
    settings = DecoderSettings(
        seed=seed,
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        perceptual=perceptual,
        augment=augment,
    )
    checkpoint = output.with_name(output.name + ".checkpoint")
    if output.exists():
        differing = training_differences(load_decoder(output), pair, faces, people, settings)
        if differing:
            raise ValueError(
                f"expected {output} to be free or the decoder of this training, found one that differs in "
                f"{', '.join(differing)}; choose another --output, or delete the file"
            )
        click.echo("Found the finished decoder of this training; nothing was trained.")
    else:
        train(
            pair, faces, people=people, settings=settings, checkpoint=checkpoint, show_progress=on_terminal()
        ).save(output)
    decoder = load_decoder(output)
    if figure is not None:
        _, held = split_people(people, len(faces), settings)
        save_figure(show_reconstructions(pair, decoder, faces[held[:12]]), figure)
    checkpoint.unlink(missing_ok=True)
    click.echo(DecoderReport(**decoder.report))  # type: ignore[arg-type] # counts are whole
    click.echo(f"Decoder: {output}")
