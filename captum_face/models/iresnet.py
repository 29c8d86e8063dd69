"""iResNet, the residual networks of ArcFace, under the state-dict names of InsightFace."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from captum_face.models.weights import load_weights

__all__ = ["Add", "IResNet", "iresnet18", "iresnet34", "iresnet50", "iresnet100", "require_faces"]

EPS = 1e-5


@torch.fx.wrap  # one opaque call for torch.fx, which cannot trace a branch on a shape
def require_faces(images: Tensor, size: tuple[int, int] = (112, 112)) -> Tensor:
    """Returns ``images`` if they are RGB images of ``size``; else raises.

    A network with a fixed head would answer other sizes with an obscure matrix error, or, where
    it ends in a convolution, silently with an embedding of another length.

    Raises:
        ValueError: ``images`` is not ``(N, 3, *size)``.
    """
    if images.ndim != 4 or images.shape[1:] != (3, *size):
        raise ValueError(
            f"expected images of the shape (N, 3, {size[0]}, {size[1]}), got "
            f"{tuple(images.shape)}; align and resize the faces to the model's input first"
        )
    return images


class Add(nn.Module):
    """The residual sum as a module without parameters, so that hooks and LRP rules can see it."""

    def forward(self, main: Tensor, shortcut: Tensor) -> Tensor:
        """Returns ``main + shortcut``."""
        return main + shortcut


def conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)


class ImprovedBlock(nn.Module):
    """BN - conv - BN - PReLU - conv - BN, plus the shortcut; nothing follows the sum."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels, eps=EPS)
        self.conv1 = conv3x3(in_channels, out_channels)
        self.bn2 = nn.BatchNorm2d(out_channels, eps=EPS)
        self.prelu = nn.PReLU(out_channels)
        self.conv2 = conv3x3(out_channels, out_channels, stride)
        self.bn3 = nn.BatchNorm2d(out_channels, eps=EPS)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
                nn.BatchNorm2d(out_channels, eps=EPS),
            )
        self.add = Add()

    def forward(self, x: Tensor) -> Tensor:
        main = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        main = self.bn3(self.conv2(main))
        return self.add(main, x if self.downsample is None else self.downsample(x))


class IResNet(nn.Module):
    """Residual network of "improved" blocks with ArcFace's head, for aligned 112x112 faces.

    The modules carry InsightFace's names (``conv1 bn1 prelu layer1..4 bn2 fc features``), so that
    a published ``backbone.pth`` loads unchanged. Expects RGB images normalised by
    ``(x - 0.5) / 0.5``: the preprocessing preset ``"arcface"``.

    Sources: Deng et al., *ArcFace: Additive Angular Margin Loss for Deep Face Recognition*, CVPR
    2019 (https://arxiv.org/abs/1801.07698); blocks after Duta et al., *Improved Residual Networks*
    (https://arxiv.org/abs/2004.04989) and Han et al. (https://arxiv.org/abs/1610.02915).

    Args:
        layers: Number of blocks in each of the four stages.
        embedding_size: Length D of the embedding.
        dropout: Share of dropped features before the last layer; acts in training only.

    Shape:
        ``(N, 3, 112, 112)`` to ``(N, D)``, not normalised.

    Examples::

        >>> model = IResNet([1, 1, 1, 1], embedding_size=128).eval()
        >>> model(torch.zeros(2, 3, 112, 112)).shape
        torch.Size([2, 128])
    """

    def __init__(self, layers: Sequence[int], embedding_size: int = 512, dropout: float = 0.0) -> None:
        super().__init__()
        if len(layers) != 4 or min(layers) < 1:
            raise ValueError(f"expected four positive numbers of blocks, got {list(layers)}")
        self.conv1 = conv3x3(3, 64)
        self.bn1 = nn.BatchNorm2d(64, eps=EPS)
        self.prelu = nn.PReLU(64)
        self.layer1 = self._stage(64, 64, layers[0])
        self.layer2 = self._stage(64, 128, layers[1])
        self.layer3 = self._stage(128, 256, layers[2])
        self.layer4 = self._stage(256, 512, layers[3])
        self.bn2 = nn.BatchNorm2d(512, eps=EPS)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(512 * 7 * 7, embedding_size)
        self.features = nn.BatchNorm1d(embedding_size, eps=EPS)
        self.features.weight.requires_grad_(False)  # stays 1: only the mean is trained

    @staticmethod
    def _stage(in_channels: int, out_channels: int, blocks: int) -> nn.Sequential:
        first = ImprovedBlock(in_channels, out_channels, stride=2)
        others = [ImprovedBlock(out_channels, out_channels, stride=1) for _ in range(blocks - 1)]
        return nn.Sequential(first, *others)

    def forward(self, images: Tensor) -> Tensor:
        """Returns the embeddings ``(N, D)`` of ``images`` ``(N, 3, 112, 112)``."""
        x = self.prelu(self.bn1(self.conv1(require_faces(images))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        x = torch.flatten(self.bn2(x), 1)
        return self.features(self.fc(self.dropout(x)))


def _build(layers: Sequence[int], weights: str | Path | None, embedding_size: int) -> IResNet:
    model = IResNet(layers, embedding_size)
    if weights is not None:
        load_weights(model, weights)
    return model.eval()


def iresnet18(weights: str | Path | None = None, *, embedding_size: int = 512) -> IResNet:
    """Builds iResNet-18 (24.0 million parameters) in eval mode.

    Args:
        weights: A file for :func:`~captum_face.models.load_weights`, such as InsightFace's
            ``backbone.pth``; None leaves the network untrained.
        embedding_size: Length of the embedding.

    Raises:
        FileNotFoundError: There is no file ``weights``.
        ValueError: The weights are unreadable or do not fit.

    Examples::

        >>> model = iresnet18()
        >>> model(torch.zeros(1, 3, 112, 112)).shape
        torch.Size([1, 512])
    """
    return _build([2, 2, 2, 2], weights, embedding_size)


def iresnet34(weights: str | Path | None = None, *, embedding_size: int = 512) -> IResNet:
    """Builds iResNet-34 (34.1 million parameters); arguments as for :func:`iresnet18`."""
    return _build([3, 4, 6, 3], weights, embedding_size)


def iresnet50(weights: str | Path | None = None, *, embedding_size: int = 512) -> IResNet:
    """Builds iResNet-50 (43.6 million parameters); arguments as for :func:`iresnet18`."""
    return _build([3, 4, 14, 3], weights, embedding_size)


def iresnet100(weights: str | Path | None = None, *, embedding_size: int = 512) -> IResNet:
    """Builds iResNet-100 (65.2 million parameters); arguments as for :func:`iresnet18`."""
    return _build([3, 13, 30, 3], weights, embedding_size)
