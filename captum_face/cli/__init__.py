"""The command line: a thin layer over :func:`captum_face.explain`."""

from __future__ import annotations

import functools
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

from captum_face._validation import require_choice
from captum_face.attr import METHODS, get_method
from captum_face.benchmark import benchmark as run_benchmark
from captum_face.benchmark._distribution import distributed
from captum_face.data import (
    FacePairs,
    read_bin,
    read_faces,
    read_pairs,
    render_faces,
    synthetic,
    synthetic_pairs,
)
from captum_face.data.images import load_image
from captum_face.decoder import DecoderReport, DecoderSettings, split_people
from captum_face.decoder import train_decoder as train
from captum_face.figures import show_comparison, show_reconstructions
from captum_face.models import load_pair
from captum_face.results.explanation import Explanation
from captum_face.results.explanation import explain as explain_pair
from captum_face.results.identification import identify as identify_probe

# What the demo changes unless told otherwise; the figures of the documentation show the same pair.
DEMO_PARTS = ("brows", "eyes", "mouth")


def _readable_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Bad input ends with the message that says what to do; ``--debug`` shows where it came from."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except (ValueError, TypeError, OSError, ImportError, RuntimeError) as error:
            if click.get_current_context().find_root().params.get("debug"):
                raise
            raise click.ClickException(str(error)) from error

    return run


_MODEL_OPTIONS = (
    click.option(
        "--model",
        required=True,
        help="A known name, FILE.onnx, or module:factory for a model of your own.",
    ),
    click.option(
        "--weights",
        type=click.Path(path_type=Path),
        help="Weights of a named model: .pt, .pth or .safetensors.",
    ),
    click.option(
        "--preprocess",
        help="arcface, adaface, magface, facenet, imagenet or none.  [default: the model's own]",
    ),
)


def _model_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options that name a model, the same for every command that needs one."""
    for option in reversed(_MODEL_OPTIONS):
        command = option(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="captum-face")
@click.option("--debug", is_flag=True, help="Show the traceback of errors.")
def main(debug: bool) -> None:
    """Which parts of two faces speak for a match, and which against."""


@main.command()
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default="captum_face_demo.png",
    show_default=True,
    help="The figure to write.",
)
@click.option(
    "--changed",
    multiple=True,
    default=DEMO_PARTS,
    show_default=True,
    help="A part to take from another face; repeatable.",
)
@click.option(
    "--seed", default=0, show_default=True, help="Of the synthetic faces and of the methods that draw."
)
@_readable_errors
def demo(output: Path, changed: tuple[str, ...], seed: int) -> None:
    """Explain a synthetic pair whose changed parts are known.

    The two pictures show one face, of which some parts were taken from another in the second. A
    dissimilarity map that finds them has a larger share inside them than they have of the area. Other
    seeds and parts show how often that is so.
    """
    started = time.perf_counter()
    kinds = FigureCanvasAgg.filetypes
    require_choice(output.suffix.lstrip(".").lower(), kinds, "ending of a figure's file name")
    _writable(output.parent)
    faces = synthetic.pair(seed, changed=changed)
    pair = load_pair("synthetic")
    masks = (faces.mask_a, faces.mask_b)
    seeded: dict[str, Any] = {"seed": seed}
    explanations = [
        explain_pair(pair, faces.image_a, faces.image_b, method=method, show_progress=True, **options)
        for method, options in (
            ("fggb", {}),
            ("corrrise", seeded),
            ("morph_gradients", seeded),
            ("reconstruction", {}),
        )
    ]
    click.echo(f"One synthetic face twice; of the second, {', '.join(changed)} are from another face.")
    click.echo(explanations[0].verdict.capitalize())
    click.echo(f"\n{'share inside the changed parts':38}{'image A':>9}{'image B':>9}")
    _row("of the area", [float(mask.float().mean()) for mask in masks])
    for explanation in explanations:
        _row(f"of {explanation.method}'s dissimilarity map", explanation.dissimilar_shares(masks))
    figure = show_comparison(explanations, masks=masks)
    figure.savefig(output)
    click.echo(f"\nFigure: {output}  ({time.perf_counter() - started:.0f} s)")


@main.command()
@click.argument("image_a", type=click.Path(path_type=Path))
@click.argument("image_b", type=click.Path(path_type=Path))
@_model_options
@click.option(
    "--threshold",
    type=float,
    help="Verification threshold, in score units.  [default: the model's own, or 0]",
)
@click.option(
    "--method",
    "methods",
    multiple=True,
    help="fggb, corrrise, ... or all; repeatable.  [default: fggb]",
)
@click.option(
    "--option",
    "options",
    multiple=True,
    metavar="KEY=VALUE",
    help="An option of a method's attribute(), such as n_masks=1000; repeatable.",
)
@click.option(
    "--smooth",
    "sigma",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="Smooth the figure's maps, in pixels.",
)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default="captum_face_output",
    show_default=True,
    help="Folder for the results.",
)
@_readable_errors
def explain(
    image_a: Path,
    image_b: Path,
    model: str,
    weights: Path | None,
    preprocess: str | None,
    threshold: float | None,
    methods: tuple[str, ...],
    options: tuple[str, ...],
    sigma: float,
    output: Path,
) -> None:
    """Explain why a model accepts or rejects the pair IMAGE_A, IMAGE_B.

    For each method the figure (.png), the maps (.npz) and a summary (.json) are written, each method as
    soon as it is done; with --method all, methods that do not suit the model are skipped, and said to be.
    The images must be aligned as the model expects; nothing is cropped or resized.
    """
    # Everything that can be wrong is looked at before the first long computation.
    named = [get_method(name) for name in dict.fromkeys(methods) if name != "all"]
    chosen = _options_by_method(
        list(METHODS.values()) if "all" in methods else named or [METHODS["fggb"]], options
    )
    images = [load_image(path) for path in (image_a, image_b)]
    pair = load_pair(model, weights=weights, preprocess=preprocess, threshold=threshold)
    pair.decide(*images)
    _writable(output)
    explanations: list[Explanation] = []
    for name, given in chosen.items():
        try:
            explanation = explain_pair(
                pair, image_a, image_b, method=name, **{"show_progress": True, **given}
            )
        except (ValueError, TypeError, ImportError, RuntimeError) as error:
            if "all" not in methods:
                raise
            # Not every method suits every model; that is no reason to lose the others.
            click.echo(f"{name}: skipped, {error}", err=True)
            continue
        files = {"model": model, "weights": weights, "image_a": image_a, "image_b": image_b}
        explanation.settings.update({key: str(value) if value else None for key, value in files.items()})
        explanations.append(explanation)
        if not explanations[1:]:
            click.echo(explanation.verdict.capitalize())
        paths = explanation.save(output, sigma=sigma)
        click.echo(f"{name}: {', '.join(str(path) for path in paths.values())}")
    if not explanations:
        raise ValueError("no method could explain this pair with this model; the reasons stand above")
    if len(explanations) > 1:
        show_comparison(explanations, sigma=sigma).savefig(output / "comparison.png")
        click.echo(f"comparison: {output / 'comparison.png'}")


@main.command()
@click.argument("probe", type=click.Path(path_type=Path))
@click.argument("gallery", metavar="GALLERY_DIR", type=click.Path(path_type=Path))
@_model_options
@click.option(
    "--threshold",
    type=float,
    help="Score from which a match is accepted.  [default: the model's own, or 0]",
)
@click.option("--method", default="corrrise", show_default=True, help="fggb, corrrise, ...")
@click.option(
    "--option",
    "options",
    multiple=True,
    metavar="KEY=VALUE",
    help="An option of the method's attribute(), such as n_masks=1000; repeatable.",
)
@click.option("--top-k", type=click.IntRange(min=1), default=5, show_default=True, help="Matches to explain.")
@click.option("--both", is_flag=True, help="Also explain each match's own image.")
@click.option(
    "--smooth",
    "sigma",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="Smooth the figure's maps, in pixels.",
)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default="captum_face_output",
    show_default=True,
    help="Folder for the results.",
)
@_readable_errors
def identify(
    probe: Path,
    gallery: Path,
    model: str,
    weights: Path | None,
    preprocess: str | None,
    threshold: float | None,
    method: str,
    options: tuple[str, ...],
    top_k: int,
    both: bool,
    sigma: float,
    output: Path,
) -> None:
    """Search the images in GALLERY_DIR for PROBE, and explain the best matches.

    The figure (.png), the maps (.npz), a summary (.json) and the whole ranking (.csv) are written. Images
    below GALLERY_DIR that cannot be read are left out, and so is the probe's own file. All images must be
    aligned as the model expects, and of one size; nothing is cropped or resized.
    """
    given = _options_by_method([get_method(method)], options)[method]
    if output.resolve().is_relative_to(gallery.resolve()):
        raise ValueError(
            f"expected an output folder outside the gallery, got {output} in {gallery}: its figure would be "
            "searched the next time; choose another --output"
        )
    pair = load_pair(model, weights=weights, preprocess=preprocess, threshold=threshold)
    _writable(output)
    found = identify_probe(
        pair, probe, gallery, method, top_k=top_k, both=both, **{"show_progress": True, **given}
    )
    files = {"model": model, "weights": weights, "probe": probe, "gallery": gallery}
    found.settings.update({key: str(value) if value else None for key, value in files.items()})
    for name, reason in list(found.left_out.items())[:10]:
        click.echo(f"left out: {name}: {reason}", err=True)
    if len(found.left_out) > 10:
        click.echo(f"and {len(found.left_out) - 10} more, see the summary", err=True)
    click.echo(f"{len(found.ranking)} images searched, {len(found.left_out)} left out")
    click.echo(f"{found.verdict[0].upper()}{found.verdict[1:]}\n")
    for rank, match in enumerate(found.matches, start=1):
        word = "accepted" if match.score >= found.threshold else "rejected"
        click.echo(f"{rank:4}  {match.score:8.4f}  {word}  {match.name}")
    paths = found.save(output, sigma=sigma)
    click.echo(f"\n{method}: {', '.join(str(path) for path in paths.values())}")


@main.command()
@click.option(
    "--pairs",
    "pair_list",
    type=click.Path(path_type=Path),
    help="A list of pairs: image_a,image_b,same as .csv, or LFW's pairs.txt.",
)
@click.option("--bin", "bin_file", type=click.Path(path_type=Path), help="An InsightFace .bin file of pairs.")
@click.option("--synthetic", type=click.IntRange(min=1), help="So many synthetic pairs instead of a file.")
@click.option(
    "--images",
    type=click.Path(path_type=Path),
    help="Folder of the listed images.  [default: the list's own]",
)
@click.option("--limit", type=click.IntRange(min=2), help="At most so many pairs, of both classes alike.")
@_model_options
@click.option(
    "--threshold",
    type=float,
    help="Verification threshold, in score units.  [default: that of the pairs' equal error rate]",
)
@click.option(
    "--method",
    "methods",
    multiple=True,
    help="NAME, NAME:KEY=VALUE,... (options, and smooth=PIXELS) or all; repeatable.  [default: all]",
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
@click.option("--seed", default=0, show_default=True, help="Of everything random.")
@click.option(
    "--examples", type=click.IntRange(min=0), default=4, show_default=True, help="Pairs shown in the report."
)
@click.option("--device", help="Such as cpu or cuda.  [default: cuda where there is one]")
@click.option(
    "--output",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for tables and report; of a run that was killed, to go on with it.",
)
@_readable_errors
def benchmark(
    pair_list: Path | None,
    bin_file: Path | None,
    synthetic: int | None,
    images: Path | None,
    limit: int | None,
    model: str,
    weights: Path | None,
    preprocess: str | None,
    threshold: float | None,
    methods: tuple[str, ...],
    metrics: tuple[str, ...],
    protocols: tuple[str, ...],
    seed: int,
    examples: int,
    device: str | None,
    output: Path,
) -> None:
    """Measure methods on many pairs: which maps are better than maps that explain nothing?

    Writes config.json, pairs.csv, metrics.csv, curves.csv and report.html. A killed run goes on where it
    was with the same command. Without --threshold that of the pairs' equal error rate is taken. Under
    torchrun (torchrun --nproc-per-node 2 -m captum_face benchmark ...) the pairs are shared out.
    """
    pairs = _read_pairs(pair_list, bin_file, synthetic, images, seed)
    if limit is not None and limit < len(pairs):
        pairs = pairs.balanced(limit, seed)
    pair = load_pair(model, weights=weights, preprocess=preprocess, threshold=threshold)
    with distributed() as (rank, local_rank):
        result = run_benchmark(
            pair.to(_chosen_device(device, local_rank)),
            pairs,
            output,
            methods=methods or ("all",),
            metrics=metrics,
            protocol=protocols,
            threshold=threshold,
            seed=seed,
            examples=examples,
            model_name=model,
            show_progress=True,
        )
    if rank != 0:
        return
    for line in result.failures[:10]:
        click.echo(f"failed: {line}", err=True)
    if len(result.failures) > 10:
        click.echo(f"and {len(result.failures) - 10} more, see the report", err=True)
    click.echo(result.text())
    click.echo(f"Report: {output / 'report.html'}")


@main.command()
@click.option(
    "--images",
    type=click.Path(path_type=Path),
    help="Folder of aligned face images: NAME/1.png or NAME_1.png, so that people are known.",
)
@click.option("--synthetic", type=click.IntRange(min=1), help="So many rendered people instead.")
@_model_options
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
@click.option("--seed", default=0, show_default=True, help="Of everything random.")
@_readable_errors
def train_decoder(
    images: Path | None,
    synthetic: int | None,
    model: str,
    weights: Path | None,
    preprocess: str | None,
    output: Path,
    figure: Path | None,
    steps: int,
    batch_size: int,
    learning_rate: float,
    perceptual: float,
    augment: bool,
    seed: int,
) -> None:
    """Train the decoder that --method reconstruction needs, and measure it on people held out.

    A killed run goes on where it was with the same command.
    """
    if (images is None) == (synthetic is None):
        raise click.UsageError("expected one of --images and --synthetic")
    if figure is not None:  # before hours of training, not after
        require_choice(
            figure.suffix.lstrip(".").lower(), FigureCanvasAgg.filetypes, "ending of a figure's file name"
        )
        _writable(figure.parent)
    _writable(output.parent)
    pair = load_pair(model, weights=weights, preprocess=preprocess)
    people: list[str] | None = None
    if images is not None:
        faces, people, left_out = read_faces(images)
        for name, reason in list(left_out.items())[:10]:
            click.echo(f"left out: {name}: {reason}", err=True)
    else:
        faces = render_faces(synthetic or 0, seed)
    settings = DecoderSettings(
        seed=seed,
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        perceptual=perceptual,
        augment=augment,
    )
    checkpoint = output.with_name(output.name + ".checkpoint")
    decoder = train(pair, faces, people=people, settings=settings, checkpoint=checkpoint, show_progress=True)
    decoder.save(output)
    if figure is not None:
        _, held = split_people(people, len(faces), settings)
        show_reconstructions(pair, decoder, faces[held[:12]]).savefig(figure)
    checkpoint.unlink(missing_ok=True)
    click.echo(DecoderReport(**decoder.report))  # type: ignore[arg-type] # counts are whole
    click.echo(f"Decoder: {output}")


@main.command()
def methods() -> None:
    """List the methods that --method knows."""
    head = ("name", "family", "needs", "without a seed", "passes for a pair", "source")
    rows = [
        (
            method.name,
            method.family,
            method.needs,
            "deterministic" if method.deterministic else "random",
            method.passes,
            method.source,
        )
        for method in METHODS.values()
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        click.echo("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def _read_pairs(
    pair_list: Path | None, bin_file: Path | None, synthetic: int | None, images: Path | None, seed: int
) -> FacePairs:
    given = sum(value is not None for value in (pair_list, bin_file, synthetic))
    if given != 1:
        raise click.UsageError(f"expected one of --pairs, --bin and --synthetic, got {given} of them")
    if pair_list is not None:
        return read_pairs(pair_list, images)
    if images is not None:
        raise click.UsageError("expected --images with --pairs alone; the others bring their images")
    return read_bin(bin_file) if bin_file is not None else synthetic_pairs(synthetic or 0, seed)


def _chosen_device(device: str | None, local_rank: int) -> torch.device:
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    # Each process of a machine has an accelerator of its own.
    chosen = torch.device(f"cuda:{local_rank}" if device == "cuda" else device)
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"expected a device that is there, got {chosen} of {torch.cuda.device_count()} GPUs")
    return chosen


def _row(label: str, shares: Sequence[float]) -> None:
    click.echo(f"{label:38}" + "".join(f"{share:9.1%}" for share in shares))


def _writable(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def _options_by_method(methods: list, options: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Each method's share of ``KEY=VALUE`` texts; a key that no chosen method knows is an error."""
    given: dict[str, Any] = {}
    for option in options:
        key, separator, text = option.partition("=")
        if not separator:
            raise click.UsageError(f"expected --option KEY=VALUE, got {option!r}")
        if key == "threshold":
            raise click.UsageError(
                "expected the threshold as --threshold, one for all methods and the decision"
            )
        try:
            given[key] = json.loads(text)
        except json.JSONDecodeError:
            given[key] = text
    known = {method.name: set(method.build(print).options()) for method in methods}
    for key in given:
        require_choice(key, sorted(set().union(*known.values())), "option of the chosen methods")
    return {name: {key: value for key, value in given.items() if key in keys} for name, keys in known.items()}
