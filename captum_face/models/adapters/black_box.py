"""Recognisers that take uint8 images and answer with embeddings, as functions of image tensors."""

from __future__ import annotations

import importlib.metadata
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from captum_face._validation import require_choice
from captum_face.pair.similarity import PairSimilarity

__all__ = ["BlackBox", "Pixels", "as_embeddings", "as_pixels", "require_same_embeddings", "with_version"]

#: One image as recognisers take it: ``(H, W, 3)`` uint8.
Pixels = NDArray[np.uint8]

_SAME = 0.999  # cosine; networks that differ in rounding alone reach .9999, also in half precision


def as_pixels(
    images: Tensor, channels: str = "rgb", input_size: tuple[int, int] | None = None
) -> list[Pixels]:
    """Images ``(N, 3, H, W)`` in [0, 1] as uint8 arrays ``(H, W, 3)``, rounded to the nearest of 256 levels.

    Args:
        images: RGB.
        channels: Order of the colours in the arrays, ``"rgb"`` or ``"bgr"`` (OpenCV).
        input_size: The height and width that are expected; None for any.

    Raises:
        ValueError: images of another size or number of channels.
    """
    if (
        images.ndim != 4
        or images.shape[1] != 3
        or tuple(images.shape[2:]) != (input_size or images.shape[2:])
    ):
        height, width = input_size or ("H", "W")
        raise ValueError(
            f"expected images of the shape (N, 3, {height}, {width}), got {tuple(images.shape)}; align and "
            "crop the faces to the size of the model first"
        )
    if channels == "bgr":
        images = images.flip(1)
    values = images.detach().cpu().clamp(0, 1).mul(255).round().to(torch.uint8)
    return list(np.ascontiguousarray(values.permute(0, 2, 3, 1).numpy()))


def as_embeddings(answer: Any, count: int, what: str) -> NDArray[np.float32]:
    """What a recogniser answers for so many images, checked: ``(N, D)`` float32.

    Args:
        answer: An array or a tensor ``(N, D)``, or a list of N embeddings.
        count: N.
        what: Who answered, for messages.

    Raises:
        ValueError: fewer or more embeddings than images, embeddings of several lengths, or not finite.
        TypeError: something else than numbers.
    """
    if answer is None:
        raise TypeError(f"expected embeddings (N, D) from {what}, got None; does its function return them?")
    if isinstance(answer, Tensor):
        answer = answer.detach().cpu().numpy()
    if isinstance(answer, Sequence) and not isinstance(answer, (str, bytes)):
        missing = [place for place, row in enumerate(answer) if row is None]
        if missing:
            raise ValueError(
                f"expected an embedding of each image from {what}, got None for image {missing[0]} of "
                f"{count}; a recogniser that looks for a face first finds none where much of it is hidden: "
                "switch its detection off, as the images are aligned crops"
            )
        lengths = sorted({np.size(row) for row in answer})
        if len(lengths) > 1:
            raise ValueError(f"expected embeddings of one length from {what}, got lengths {lengths}")
    try:
        rows = np.asarray(answer, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"expected embeddings (N, D) of numbers from {what}, got {type(answer).__name__} ({error})"
        ) from error
    if rows.ndim == 3 and rows.shape[1] == 1:
        rows = rows[:, 0]  # a list of (1, D)
    if rows.ndim != 2 or len(rows) != count or rows.shape[1] == 0:
        raise ValueError(
            f"expected embeddings of the shape ({count}, D) from {what} for {count} image(s), got "
            f"{rows.shape}; answer with one embedding for each image, in their order"
        )
    if not np.isfinite(rows).all():
        place = int(np.flatnonzero(~np.isfinite(rows).all(1))[0])
        raise ValueError(
            f"expected finite embeddings from {what}, got NaN or infinite values for image {place}"
        )
    return rows


class BlackBox:
    """A recogniser without gradients, from image tensors to embeddings.

    Args:
        call: From a list of N uint8 arrays ``(H, W, 3)`` to N embeddings: an array ``(N, D)`` or a list.
        name: What messages call it.
        channels: Order of the colours that ``call`` takes, ``"rgb"`` or ``"bgr"`` (OpenCV).
        input_size: Height and width of its images; None for any.

    Shape: images ``(N, 3, H, W)`` in [0, 1], RGB, to ``(N, D)``. Values are rounded to 256 levels.

    Methods that need gradients refuse it; the others explain it. One thread at a time calls it.

    Raises:
        ValueError, TypeError: images of another size; what is not one finite embedding for each image.

    Example::

        >>> import torch
        >>> colour = BlackBox(lambda images: [image.mean((0, 1)) for image in images], name="mean colour")
        >>> colour(torch.ones(2, 3, 8, 8)).shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        call: Callable[[list[Pixels]], Any],
        *,
        name: str,
        channels: str = "rgb",
        input_size: tuple[int, int] | None = None,
    ) -> None:
        if not callable(call):
            raise TypeError(f"expected call to be a function of a list of images, got {type(call).__name__}")
        self.call = call
        self.name = name
        self.channels = require_choice(channels, ("rgb", "bgr"), "order of channels")
        self.input_size = input_size
        self._lock = threading.Lock()

    def __call__(self, images: Tensor) -> Tensor:
        """Embeddings ``(N, D)`` of ``images`` ``(N, 3, H, W)``; without gradients."""
        pixels = as_pixels(images, self.channels, self.input_size)
        with self._lock:
            rows = as_embeddings(self.call(pixels), len(pixels), self.name)
        return torch.from_numpy(rows).to(images.device, torch.promote_types(images.dtype, torch.float32))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name})"


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
