"""MobileFaceNet, a face embedding network of one million parameters."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from captum_face._validation import require_choice
from captum_face.models.iresnet import Add, require_faces
from captum_face.models.weights import load_weights

__all__ = ["MobileFaceNet", "mobilefacenet"]

torch.fx.wrap("require_faces")

# (expansion, width, repeats, stride of the first) of each group of inverted residuals
GROUPS = ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1))


def _nonlinearity(kind: str, channels: int, *, clipped: bool = True) -> nn.Module:
    # never inplace: that breaks backward hooks, which LRP and many Captum methods rely on
    if kind == "prelu":
        return nn.PReLU(channels)
    return nn.ReLU6() if clipped else nn.ReLU()


def _conv_bn(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    *,
    activation: str,
    stride: int = 1,
    groups: int = 1,
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding=kernel_size // 2,
            groups=groups,
            bias=False,
        ),
        nn.BatchNorm2d(out_channels),
        _nonlinearity(activation, out_channels),
    )


class DepthwiseSeparable(nn.Module):
    """Depthwise 3x3 - BN - ReLU - pointwise 1x1 - BN - ReLU."""

    def __init__(self, channels: int, activation: str) -> None:
        super().__init__()
        # Both convolutions before both BatchNorms: the published state dict has this order. It is
        # not the order of execution, so never pair the layers by their registration.
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.pointwise = nn.Conv2d(channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.bn2 = nn.BatchNorm2d(channels)
        self.act1 = _nonlinearity(activation, channels, clipped=False)
        self.act2 = _nonlinearity(activation, channels, clipped=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act1(self.bn1(self.depthwise(x)))
        return self.act2(self.bn2(self.pointwise(x)))


class InvertedResidual(nn.Module):
    """Expand 1x1, depthwise 3x3, project 1x1 without activation; shortcut where shapes allow."""

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, expansion: int, activation: str
    ) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.conv = nn.Sequential(
            _conv_bn(in_channels, hidden, 1, activation=activation),
            _conv_bn(hidden, hidden, 3, stride=stride, groups=hidden, activation=activation),
            nn.Conv2d(hidden, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.add = Add() if stride == 1 and in_channels == out_channels else None

    def forward(self, x: Tensor) -> Tensor:
        main = self.conv(x)
        return main if self.add is None else self.add(main, x)


class GlobalDepthwise(nn.Module):
    """Depthwise convolution over the whole 7x7 grid, a learned replacement of average pooling."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, groups=channels, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.depthwise(x))


class MobileFaceNet(nn.Module):
    """MobileFaceNet for aligned 112x112 faces.

    Source: Chen et al., *MobileFaceNets: Efficient CNNs for Accurate Real-Time Face Verification
    on Mobile Devices*, 2018 (https://arxiv.org/abs/1804.07573). Layers and state-dict names are
    those of https://github.com/foamliu/MobileFaceNet, whose published weights load unchanged and
    expect RGB images normalised by ImageNet's mean and standard deviation: the preprocessing
    preset ``"imagenet"``.

    Args:
        embedding_size: Length D of the embedding.
        activation: ``"relu"`` (ReLU6, and ReLU in ``dw_conv``) as in the published weights, or
            ``"prelu"`` as in the paper; the latter adds its slopes to the state dict.

    Shape:
        ``(N, 3, 112, 112)`` to ``(N, D)``, not normalised.

    Raises:
        ValueError: Unknown ``activation``.

    Examples::

        >>> model = MobileFaceNet().eval()
        >>> model(torch.zeros(2, 3, 112, 112)).shape
        torch.Size([2, 128])
    """

    def __init__(self, embedding_size: int = 128, activation: str = "relu") -> None:
        super().__init__()
        require_choice(activation, ["relu", "prelu"], "activation")
        self.conv1 = _conv_bn(3, 64, 3, stride=2, activation=activation)
        self.dw_conv = DepthwiseSeparable(64, activation)
        # registered before `features`, executed after: again the order of the published file
        self.conv2 = _conv_bn(128, 512, 1, activation=activation)
        self.gdconv = GlobalDepthwise(512)
        self.conv3 = nn.Conv2d(512, embedding_size, 1)
        self.bn = nn.BatchNorm2d(embedding_size)
        blocks = []
        channels = 64
        for expansion, width, repeats, first_stride in GROUPS:
            for index in range(repeats):
                stride = first_stride if index == 0 else 1
                blocks.append(InvertedResidual(channels, width, stride, expansion, activation))
                channels = width
        self.features = nn.Sequential(*blocks)

    def forward(self, images: Tensor) -> Tensor:
        """Returns the embeddings ``(N, D)`` of ``images`` ``(N, 3, 112, 112)``."""
        x = self.features(self.dw_conv(self.conv1(require_faces(images))))
        x = self.bn(self.conv3(self.gdconv(self.conv2(x))))
        return torch.flatten(x, 1)


def mobilefacenet(
    weights: str | Path | None = None, *, embedding_size: int = 128, activation: str = "relu"
) -> MobileFaceNet:
    """Builds :class:`MobileFaceNet` (1.0 million parameters) in eval mode.

    Args:
        weights: A file for :func:`~captum_face.models.load_weights`; None leaves the network
            untrained.
        embedding_size: Length of the embedding.
        activation: ``"relu"`` or ``"prelu"``, see :class:`MobileFaceNet`.

    Raises:
        FileNotFoundError: There is no file ``weights``.
        ValueError: The weights are unreadable or do not fit, or ``activation`` is unknown.

    Examples::

        >>> model = mobilefacenet()
        >>> model.training
        False
    """
    model = MobileFaceNet(embedding_size, activation)
    if weights is not None:
        load_weights(model, weights)
    return model.eval()
