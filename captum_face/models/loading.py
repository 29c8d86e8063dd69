"""The networks known by name, and a pair wrapper from what a person writes on a command line."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from captum_face._validation import require_choice, require_threshold
from captum_face.maps.templates import TEMPLATES
from captum_face.models.dlib_net import DlibResNet, dlib_resnet, dlib_threshold
from captum_face.models.iresnet import iresnet18, iresnet34, iresnet50, iresnet100
from captum_face.models.mobile_facenet import mobilefacenet
from captum_face.models.onnx import load_onnx
from captum_face.models.synthetic_net import SyntheticFaceNet, synthetic, synthetic_threshold
from captum_face.models.weights import load_weights
from captum_face.pair.preprocessing import resolve_preprocess
from captum_face.pair.scores import Cosine, NegativeSquaredEuclidean, Score, Threshold, resolve_score
from captum_face.pair.similarity import PairSimilarity

__all__ = ["MODELS", "ModelEntry", "load_pair"]


@dataclass(frozen=True)
class ModelEntry:
    """A network that is known by name, as to the command line.

    Attributes:
        build: Makes it; takes a file of weights or None as its first argument.
        preprocess: Name of the preprocessing preset its published weights expect.
        input_size: Height and width of its images.
        description: One line on what it is.
        ships_weights: Whether ``build(None)`` gives a trained network.
        read_threshold: Reads the verification threshold that comes with those weights, as the score takes it.
        score: Name of the score that its embeddings are made for.
        extra: Name of the package's extra that brings the weights; empty where the package itself does.
    """

    build: Callable[[str | Path | None], nn.Module]
    preprocess: str
    input_size: tuple[int, int]
    description: str
    ships_weights: bool = False
    read_threshold: Callable[[], float] | None = None
    score: str = Cosine.name
    extra: str = ""

    @property
    def threshold(self) -> Threshold | None:
        """The verification threshold of the weights without a file, as the score takes it; None for none."""
        if self.read_threshold is None:
            return None
        found = self.read_threshold()
        return found if isinstance(found, Threshold) else Threshold(found, "shipped with the model")


def _synthetic(weights: str | Path | None) -> SyntheticFaceNet:
    return synthetic() if weights is None else load_weights(synthetic(pretrained=False), weights)


_SIZE = (112, 112)

#: The networks that the command line knows by name.
MODELS: dict[str, ModelEntry] = {
    "synthetic": ModelEntry(
        _synthetic, "arcface", _SIZE, "small network for rendered faces", True, synthetic_threshold
    ),
    "mobilefacenet": ModelEntry(mobilefacenet, "imagenet", _SIZE, "MobileFaceNet, 1.0 million parameters"),
    "iresnet18": ModelEntry(iresnet18, "arcface", _SIZE, "iResNet-18, 24.0 million parameters"),
    "iresnet34": ModelEntry(iresnet34, "arcface", _SIZE, "iResNet-34, 34.1 million parameters"),
    "iresnet50": ModelEntry(iresnet50, "arcface", _SIZE, "iResNet-50, 43.6 million parameters"),
    "iresnet100": ModelEntry(iresnet100, "arcface", _SIZE, "iResNet-100, 65.2 million parameters"),
    "dlib": ModelEntry(
        dlib_resnet,
        "dlib",
        (150, 150),
        "dlib's residual network, 5.6 million parameters",
        True,
        dlib_threshold,
        NegativeSquaredEuclidean.name,
        "photos",
    ),
}


def load_pair(
    model: str,
    *,
    weights: str | Path | None = None,
    preprocess: str | Callable[[Tensor], Tensor] | None = None,
    threshold: float | None = None,
    score: str | Score | None = None,
    alignment: str | None = None,
) -> PairSimilarity:
    """A pair wrapper from a model's name, an ONNX file or a factory of your own.

    Args:
        model: One of

            * a name of :data:`captum_face.models.MODELS`;
            * a path that ends in ``.onnx``;
            * ``"module:factory"``: ``factory()`` is called and gives an embedding model or a finished
              :class:`~captum_face.PairSimilarity`. The current folder is searched too.
        weights: A file for :func:`~captum_face.models.load_weights`, or for
            :func:`~captum_face.models.dlib_resnet`; needed by named models that ship none.
        preprocess: A preset's name, or ``"none"`` for models that normalise their input themselves. None
            for the named model's own; for ONNX files the preset of the named model that the file name
            begins with, else ``"arcface"``, which InsightFace's ONNX files expect; for factories no
            preprocessing.
        threshold: The verification threshold as :class:`~captum_face.PairSimilarity` takes it. None for the
            one that comes with the model's weights, which is not used with another score than the model's
            own, else none.
        score: A name of :data:`captum_face.pair.scores.SCORES` or a :class:`~captum_face.pair.scores.Score`.
            None for the named model's own, the score of a finished pair wrapper, else ``"cosine"``.
        alignment: How the model expects faces to lie in its images: a name of
            :data:`captum_face.photos.TEMPLATES`, or ``"none"`` for an alignment that is not known. None for
            the pair wrapper's own (:class:`~captum_face.PairSimilarity`).

    Raises:
        FileNotFoundError, ValueError, TypeError, ImportError: what is missing or doesn't fit, and what to do.
    """
    if preprocess == "none":
        preprocess = nn.Identity()
    resolve_preprocess(preprocess)
    if alignment is not None:
        require_choice(alignment, (*TEMPLATES, "none"), "alignment")
    own = MODELS[model].score if model in MODELS else Cosine.name
    chosen = resolve_score(own if score is None else score)
    if threshold is not None:
        # A factory may bring a score of its own, by which it is looked at then.
        require_threshold(threshold) if ":" in model else chosen.given(threshold)
    if model.lower().endswith(".onnx"):
        if weights is not None:
            raise ValueError(f"expected no weights beside an ONNX file, which holds its own, got {weights}")
        known = [name for name in MODELS if Path(model).stem.lower().startswith(name)]
        network: Callable[[Tensor], Any] = load_onnx(model)
        default = MODELS[max(known, key=len)].preprocess if known else "arcface"
        pair = _wrap(network, preprocess or default, threshold, chosen, alignment)
        if preprocess is None:  # results say so: another one changes every score
            how = "guessed from the file name" if known else "the default for ONNX files"
            pair.__dict__["preset_guess"] = f"{default}, {how}"
        return pair
    if ":" in model:
        made = _call_factory(model)
        network = made.embedding_model if isinstance(made, PairSimilarity) else made
        if weights is not None:
            if not isinstance(network, nn.Module):
                raise TypeError(
                    f"expected {model} to give a module to load {weights} into, got {type(network).__name__}"
                )
            load_weights(network, weights)
        if isinstance(made, PairSimilarity):
            if preprocess is not None:
                raise ValueError(
                    f"{model} gives a PairSimilarity with its own preprocessing; leave preprocess out"
                )
            if score is not None:
                raise ValueError(f"{model} gives a PairSimilarity with its own score; leave score out")
            if threshold is not None:
                made.threshold = threshold
            if alignment is not None:
                made.alignment = None if alignment == "none" else alignment
            return made
        return _wrap(network, preprocess, threshold, chosen, alignment)
    entry = MODELS[require_choice(model, MODELS, "model (or FILE.onnx, or module:factory)")]
    if weights is None and not entry.ships_weights:
        raise ValueError(
            f"expected weights for {model}, which ships none: give a file (.pt, .pth, .safetensors); the "
            "bundled model is 'synthetic'"
        )
    network = entry.build(weights)
    if threshold is None and chosen.name == entry.score and (weights is None or _published(network)):
        threshold = entry.threshold
    pair = _wrap(network, preprocess or entry.preprocess, threshold, chosen, alignment)
    pair.image_size = entry.input_size
    return pair


def _published(network: nn.Module) -> bool:
    """Whether weights from a file are those without a file."""
    return isinstance(network, DlibResNet) and network.published


def _wrap(
    network: Callable[[Tensor], Tensor],
    preprocess: str | Callable[[Tensor], Tensor] | None,
    threshold: float | None,
    score: Score,
    alignment: str | None,
) -> PairSimilarity:
    pair = PairSimilarity(
        network,
        score=score,
        preprocess=preprocess,
        threshold=threshold,
        alignment={None: "auto", "none": None}.get(alignment, alignment),
    )
    return pair.eval()


def _call_factory(spec: str) -> Callable[[Tensor], Tensor]:
    module_name, _, factory_name = spec.partition(":")
    # As `python -m` does: a factory lies in the folder where its user works.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ImportError(
            f"expected a Python module in {spec!r} (module:factory), could not import it: {error}"
        ) from error
    factory = getattr(module, factory_name, None)
    if not callable(factory):
        raise ValueError(
            f"expected a function {factory_name!r} in the module {module_name}, found {factory!r}"
        )
    made = factory()
    if not callable(made):
        raise TypeError(
            f"expected {spec} to give an embedding model or a PairSimilarity, got {type(made).__name__}"
        )
    return made
