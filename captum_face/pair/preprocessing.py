"""From [0, 1] RGB images to what an embedding model was trained on.

Images stay in [0, 1] outside the model: 0 is black for every mask, fill and baseline, and a map can be
laid over its image. Normalisation and channel order therefore live in the pair wrapper.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from captum_face._validation import require_choice

__all__ = ["PRESETS", "Normalize", "Preset", "resolve_preprocess"]


class Normalize(nn.Module):
    """``(x - mean) / std`` per channel, after turning RGB into BGR where the model wants that.

    Args:
        mean: One value, or one per channel in the order the model sees, for images in [0, 1].
        std: The same.
        bgr: Reverse the three channels first.

    Shape: ``(N, C, H, W)`` to the same.
    """

    def __init__(
        self, mean: float | Sequence[float], std: float | Sequence[float], bgr: bool = False
    ) -> None:
        super().__init__()
        self.mean, self.std, self.bgr = mean, std, bgr

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[1] != 3:
            raise ValueError(f"expected images of 3 channels (RGB), got shape {tuple(images.shape)}")
        if self.bgr:
            images = images.flip(1)
        mean, std = (images.new_tensor(v).reshape(-1, 1, 1) for v in (self.mean, self.std))
        return (images - mean) / std

    def extra_repr(self) -> str:
        return f"mean={self.mean}, std={self.std}, bgr={self.bgr}"


class Preset(NamedTuple):
    """What the published models of a family expect; a call gives the preprocessing.

    Example::

        >>> PRESETS["adaface"]()
        Normalize(mean=0.5, std=0.5, bgr=True)
        >>> PRESETS["adaface"].template, PRESETS["adaface"].size
        ('arcface', (112, 112))
    """

    mean: float | Sequence[float]  #: as :class:`Normalize` takes it
    std: float | Sequence[float]
    bgr: bool = False  #: whether the model wants blue first
    #: A name of :data:`captum_face.photos.TEMPLATES`: how faces lie in its images.
    template: str = "arcface"
    size: tuple[int, int] | None = (112, 112)  #: height and width of its images; None if they differ

    def __call__(self) -> Normalize:
        """The preprocessing."""
        return Normalize(self.mean, self.std, self.bgr)


#: What published models expect, by the name of their family.
PRESETS: dict[str, Preset] = {
    # InsightFace's iResNets and ONNX files: RGB, (x - 0.5) / 0.5
    "arcface": Preset(0.5, 0.5),
    # AdaFace: the same, BGR
    "adaface": Preset(0.5, 0.5, bgr=True),
    # MagFace: BGR in [0, 1]
    "magface": Preset(0.0, 1.0, bgr=True),
    # facenet-pytorch: (255 x - 127.5) / 128, 160 x 160
    "facenet": Preset(127.5 / 255, 128 / 255, template="facenet", size=(160, 160)),
    # dlib: (255 x - mean) / 256, 150 x 150
    "dlib": Preset(
        (122.782 / 255, 117.001 / 255, 104.298 / 255), 256 / 255, template="dlib", size=(150, 150)
    ),
    "imagenet": Preset((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), size=None),
}


def resolve_preprocess(
    preprocess: str | Callable[[Tensor], Tensor] | None,
) -> Callable[[Tensor], Tensor]:
    """Turns a name of :data:`PRESETS`, a callable or None into a callable on images.

    Raises:
        ValueError: the name is not known; the message says the nearest one.
        TypeError: none of the three.
    """
    if preprocess is None:
        return nn.Identity()
    if callable(preprocess):
        return preprocess
    return PRESETS[require_choice(preprocess, PRESETS, "preprocess preset")]()
