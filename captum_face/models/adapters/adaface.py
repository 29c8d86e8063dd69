"""AdaFace: networks that answer with a feature and its norm."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from captum_face.pair.preprocessing import PRESETS
from captum_face.pair.similarity import PairSimilarity

__all__ = ["from_adaface"]

_SIZE = (112, 112)


def from_adaface(model: nn.Module, *, threshold: float | None = None) -> PairSimilarity:
    """A network of AdaFace, ready to be explained.

    For example, with ``net.py`` of AdaFace's repository::

        model = captum_face.models.load_weights(net.build_model("ir_50"), "adaface_ir50_ms1mv2.ckpt")
        pair = from_adaface(model)

    Images are crops aligned by ArcFace's five points, 112 x 112; the network sees them as BGR. The score is
    the cosine. All methods explain it.

    Args:
        model: The network; it is put into eval mode.
        threshold: The verification threshold, a cosine. None for none: AdaFace publishes none.

    Cost: one forward pass.

    Raises:
        TypeError: not a module.
        ValueError: a network that doesn't answer with ``(feature, norm)``.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"expected a network of AdaFace, got {type(model).__name__}")
    pair = PairSimilarity(model, preprocess="adaface", select=0, threshold=threshold, alignment="arcface")
    with pair.frozen(), torch.no_grad():
        answer = model(PRESETS["adaface"]()(torch.full((2, 3, *_SIZE), 0.5)))
    if not _feature_and_norm(answer):
        raise ValueError(
            f"expected AdaFace's answer (feature, norm) of the shapes (2, D) and (2, 1) for two images, got "
            f"{_shapes(answer)}; a network that answers with the embedding alone needs no adapter: "
            'PairSimilarity(model, preprocess="adaface"), or preprocess="arcface" if it takes RGB'
        )
    return pair.eval()


def _feature_and_norm(answer: Any) -> bool:
    if not (
        isinstance(answer, (tuple, list)) and len(answer) == 2 and all(isinstance(p, Tensor) for p in answer)
    ):
        return False
    feature, norm = answer
    return feature.ndim == 2 and len(feature) == 2 and norm.numel() == 2


def _shapes(answer: Any) -> str:
    parts = answer if isinstance(answer, (tuple, list)) else [answer]
    return ", ".join(str(tuple(p.shape)) if isinstance(p, Tensor) else type(p).__name__ for p in parts)
