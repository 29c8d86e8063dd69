"""InsightFace: its ``FaceAnalysis`` and ``ArcFaceONNX``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from captum_face.models.adapters._pixels import Pixels
from captum_face.models.adapters._white_box import require_same_embeddings
from captum_face.models.adapters.black_box import BlackBox
from captum_face.models.onnx import load_onnx
from captum_face.pair.preprocessing import Normalize
from captum_face.pair.similarity import PairSimilarity

__all__ = ["from_insightface"]

_AS_A_BLACK_BOX = "from_insightface(model, gradients=False) explains it without gradients"


def from_insightface(model: Any, *, threshold: float | None = None, gradients: bool = True) -> PairSimilarity:
    """The recogniser of InsightFace that you have loaded, ready to be explained.

    For example::

        app = insightface.app.FaceAnalysis("buffalo_l")
        app.prepare(ctx_id=-1)
        pair = from_insightface(app)

    Images are crops aligned by ArcFace's five points, of the model's size. The score is the cosine.

    Args:
        model: A ``FaceAnalysis`` that has loaded its recognition model, or an ``ArcFaceONNX`` (what
            ``insightface.model_zoo.get_model`` gives for such a file).
        threshold: The verification threshold, a cosine. None for none: InsightFace publishes none for its
            models.
        gradients: Read the model's file into PyTorch (:func:`~captum_face.models.load_onnx`, extra ``onnx``),
            with the mean and standard deviation of the object, and compare with ``get_feat`` on two images.
            All methods explain it then. False calls ``get_feat`` itself.

    Cost: a handful of forward passes with gradients, none without.

    Raises:
        TypeError: neither of the two.
        ValueError: a ``FaceAnalysis`` without a recognition model, a model without a fixed image size, a file
            that cannot be converted, or whose network differs from ``get_feat``.
        ImportError: the extra ``onnx`` is not installed.
    """
    model = _recognition_model(model)
    width, height = model.input_size
    if not (isinstance(height, int) and isinstance(width, int)):
        raise ValueError(
            f"expected a recognition model with a fixed image size, got {model.input_size} from "
            f"{model.model_file}; set model.input_size = (width, height)"
        )

    def get_feat(images: list[Pixels]) -> Any:
        return model.get_feat(images)

    batch = model.input_shape[0]
    black_box = BlackBox(
        get_feat,
        name=f"get_feat of {Path(model.model_file).name}",
        channels="bgr",
        input_size=(height, width),
    )
    limit = batch if isinstance(batch, int) else None
    if not gradients:
        return PairSimilarity(black_box, threshold=threshold, max_batch_size=limit, alignment="arcface")
    try:
        network = load_onnx(model.model_file)
    except (ImportError, ValueError) as error:
        raise type(error)(f"{error}. {_AS_A_BLACK_BOX}") from error
    # get_feat computes (pixels - mean) / std of values from 0 to 255.
    mean, std = (np.float64(value).item() / 255 for value in (model.input_mean, model.input_std))
    pair = PairSimilarity(network, preprocess=Normalize(mean, std), threshold=threshold, alignment="arcface")
    require_same_embeddings(pair, black_box, _AS_A_BLACK_BOX)
    return pair.eval()


def _recognition_model(model: Any) -> Any:
    models = getattr(model, "models", None)
    if isinstance(models, dict):
        if "recognition" not in models:
            raise ValueError(
                f"expected a FaceAnalysis with a recognition model, got one with {sorted(models) or 'none'}; "
                "make it with allowed_modules=['detection', 'recognition'] or without allowed_modules"
            )
        model = models["recognition"]
    needed = ("get_feat", "model_file", "input_size", "input_shape", "input_mean", "input_std")
    if isinstance(model, type) or not all(hasattr(model, name) for name in needed):
        raise TypeError(
            f"expected a FaceAnalysis or an ArcFaceONNX of InsightFace, got {model!r}; a file is opened by "
            "captum_face.models.load_pair('FILE.onnx')"
        )
    return model
