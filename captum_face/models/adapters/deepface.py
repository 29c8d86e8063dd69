"""DeepFace: any of the recognisers that its ``represent`` knows."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from torch import nn

from captum_face.models.adapters._pixels import Pixels, as_embeddings
from captum_face.models.adapters._white_box import require_same_embeddings, with_version
from captum_face.models.adapters.black_box import BlackBox
from captum_face.pair.preprocessing import Normalize
from captum_face.pair.scores import Threshold
from captum_face.pair.similarity import PairSimilarity

__all__ = ["from_deepface"]

#: What the recognisers of DeepFace were trained on; the others on crops along the edges of a face's box.
_TEMPLATES = dict.fromkeys(("ArcFace", "SFace", "GhostFaceNet", "Buffalo_L"), "arcface") | {"Dlib": "dlib"}


def from_deepface(
    model_name: str = "VGG-Face",
    *,
    normalization: str = "base",
    threshold: float | None = None,
    gradients: bool | None = None,
) -> PairSimilarity:
    """A recogniser of DeepFace, ready to be explained.

    Images are crops of the recogniser's own size: DeepFace is told to detect and align nothing
    (``detector_backend="skip"``). They are aligned as the recogniser was trained: by ArcFace's five points,
    as dlib's chips, or along the box of the face for the others. The score is the cosine, 1 less DeepFace's
    cosine distance.

    Args:
        model_name: As for ``DeepFace.represent``, such as ``"Facenet512"``. DeepFace loads the weights.
        normalization: As for ``DeepFace.represent``.
        threshold: The verification threshold, a cosine. None for the one that DeepFace has for this model.
        gradients: Explain the recogniser's network itself, by all methods. Possible where DeepFace runs it in
            PyTorch (``DEEPFACE_BACKEND_ENGINE=pytorch``) with the normalization ``"base"``; it is compared
            with ``represent`` on two images. False calls ``represent``. None for what is possible.

    Cost: a handful of forward passes.

    Raises:
        ImportError: DeepFace is not installed.
        ValueError: gradients that cannot be had; a network that differs from ``represent``.
        Exception: what DeepFace raises for an unknown model or weights that it cannot load.
    """
    try:
        deepface = importlib.import_module("deepface.DeepFace")
    except ModuleNotFoundError as error:
        raise ImportError(
            f"from_deepface needs the package {error.name}, which is not installed: pip install deepface"
        ) from error
    client = deepface.build_model(model_name)
    width, height = client.input_shape

    def represent(images: list[Pixels]) -> Any:
        return deepface.represent(
            images[0] if len(images) == 1 else images,
            model_name=model_name,
            enforce_detection=False,
            detector_backend="skip",
            align=False,
            normalization=normalization,
        )

    def one_by_one(images: list[Pixels]) -> Any:
        return [represent([image])[0]["embedding"] for image in images]

    def together(images: list[Pixels]) -> Any:
        if len(images) == 1:
            return one_by_one(images)
        return [faces[0]["embedding"] for faces in represent(images)]

    call = together if _takes_lists(together, one_by_one, (height, width)) else one_by_one
    name = f"{model_name} of {with_version('deepface')}, normalization {normalization}"
    black_box = BlackBox(call, name=name, channels="bgr", input_size=(height, width))
    alignment = _TEMPLATES.get(model_name, "facenet")
    published = _threshold(model_name) if threshold is None else threshold
    network: Any = getattr(client, "model", None)
    possible = isinstance(network, nn.Module) and normalization == "base"
    if gradients and not possible:
        raise ValueError(
            f"expected a network in PyTorch for gradients, got {type(network).__name__} with the "
            f"normalization {normalization!r}; set the environment variable DEEPFACE_BACKEND_ENGINE=pytorch "
            'before DeepFace is imported, and normalization="base", or leave gradients=True out'
        )
    if gradients is False or not possible:
        return PairSimilarity(black_box, threshold=published, alignment=alignment)
    # "base" is BGR in [0, 1].
    pair = PairSimilarity(
        network,
        preprocess=Normalize(0.0, 1.0, bgr=True),
        threshold=published,
        alignment=alignment,
        image_size=(height, width),
    )
    advice = "from_deepface(..., gradients=False) explains it without gradients"
    require_same_embeddings(pair, black_box, advice)
    return pair.eval()


def _takes_lists(together: Any, one_by_one: Any, size: tuple[int, int]) -> bool:
    """Whether this DeepFace embeds a list of images, each as it does alone; older ones take one image."""
    values = np.linspace(0, 255, 2 * size[0] * size[1] * 3).reshape(2, *size, 3)
    images = list(values.astype(np.uint8))
    alone = as_embeddings(one_by_one(images), 2, "DeepFace")  # what is wrong with the model is raised here
    try:
        both = as_embeddings(together(images), 2, "DeepFace")
    except Exception:
        return False
    return both.shape == alone.shape and bool(np.abs(both - alone).max() <= 1e-3 * np.abs(alone).max())


def _threshold(model_name: str) -> Threshold | None:
    """The cosine at which DeepFace accepts, with where it was read."""
    find = importlib.import_module("deepface.modules.verification").find_threshold
    try:
        distance = float(find(model_name, "cosine"))
    except (KeyError, ValueError):  # a model without one
        return None
    source = f"{with_version('deepface')}: cosine distance {distance:g}, chosen with its own crops"
    return Threshold(1 - distance, source)
