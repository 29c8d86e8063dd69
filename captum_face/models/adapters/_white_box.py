"""Networks of other packages in PyTorch, held against what the packages themselves answer."""

from __future__ import annotations

import importlib.metadata

import torch
import torch.nn.functional as F

from captum_face.models.adapters.black_box import BlackBox
from captum_face.pair.similarity import PairSimilarity

__all__ = ["require_same_embeddings", "with_version"]

_SAME = 0.999  # cosine; networks that differ in rounding alone reach .9999, also in half precision


def require_same_embeddings(pair: PairSimilarity, reference: BlackBox, advice: str) -> None:
    """Checks that a network in PyTorch gives what the recogniser itself gives, on two synthetic faces.

    Args:
        pair: The network with its preprocessing.
        reference: The recogniser, with its ``input_size``.
        advice: What to do where they differ.

    Cost: two forward passes of each.

    Raises:
        ValueError: a cosine of their embeddings below .999.
    """
    from captum_face.data import synthetic

    drawn = synthetic.pair(seed=0)
    size = reference.input_size
    faces = F.interpolate(
        torch.cat([drawn.image_a, drawn.image_b]), size, mode="bilinear", align_corners=False
    )
    faces = faces.mul(255).round() / 255
    with pair.frozen(), torch.no_grad():
        got, expected = pair.embed(faces), torch.cat([reference(face[None]) for face in faces])
    if got.shape != expected.shape:
        raise ValueError(
            f"expected embeddings of the shape {tuple(expected.shape)} as {reference.name} gives them, got "
            f"{tuple(got.shape)}; {advice}"
        )
    lowest = float(F.cosine_similarity(got.double(), expected.double()).min())
    if not lowest >= _SAME:
        raise ValueError(
            f"expected the embeddings of {reference.name} from its network in PyTorch too, got a cosine of "
            f"{lowest:.4f} to them, so it would explain another model; {advice}"
        )


def with_version(package: str) -> str:
    """A package's name with the version that is installed, such as ``"deepface 0.0.103"``."""
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:  # found on the path and not installed
        return package
