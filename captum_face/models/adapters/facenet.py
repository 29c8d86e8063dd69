"""facenet-pytorch: its ``InceptionResnetV1``."""

from __future__ import annotations

from torch import nn

from captum_face.pair.similarity import PairSimilarity

__all__ = ["from_facenet"]


def from_facenet(model: nn.Module, *, threshold: float | None = None) -> PairSimilarity:
    """An ``InceptionResnetV1`` of facenet-pytorch, ready to be explained.

    For example::

        pair = from_facenet(facenet_pytorch.InceptionResnetV1(pretrained="vggface2"))

    Images are its margin crops, 160 x 160. The score is the cosine of its embeddings, which have length 1:
    a distance d of facenet-pytorch's examples is a cosine of 1 - d² / 2. All methods explain it.

    Args:
        model: The network; it is put into eval mode.
        threshold: The verification threshold, a cosine. None for none: facenet-pytorch publishes none.

    Raises:
        TypeError: not a module.
        ValueError: a network that answers with class scores.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"expected an InceptionResnetV1 of facenet-pytorch, got {type(model).__name__}")
    if getattr(model, "classify", False):
        raise ValueError(
            "expected a network that answers with embeddings, got one with classify=True, which answers with "
            "class scores; set model.classify = False"
        )
    return PairSimilarity(model, preprocess="facenet", threshold=threshold).eval()
