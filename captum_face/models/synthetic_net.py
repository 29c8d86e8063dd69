"""The bundled embedding network for synthetic faces: small enough to ship, good enough to explain."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor, nn

__all__ = ["SyntheticFaceNet", "synthetic", "synthetic_metadata", "synthetic_threshold"]

WEIGHTS = Path(__file__).with_name("synthetic.safetensors")


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.PReLU(outputs),
    )


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = _conv(channels, channels)
        self.conv2 = nn.Sequential(
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.conv1(x))


class SyntheticFaceNet(nn.Module):
    """A face embedding network with the building blocks of MobileFaceNet and iResNet.

    Convolutions with BatchNorm and PReLU, two residual blocks, and a depthwise convolution over the
    whole 7x7 grid as head, so that every embedding channel can weigh every place. There are no
    in-place operations. Input ``(N, 3, 112, 112)``, RGB, preprocessed by the ``"arcface"`` preset
    (``(x - 0.5) / 0.5`` of images in [0, 1]) outside of the network; output ``(N, embedding_size)``,
    not normalised.

    Args:
        embedding_size: Channels of the embedding.
    """

    def __init__(self, embedding_size: int = 64) -> None:
        super().__init__()
        self.stem = _conv(3, 16, stride=2)
        self.stage1 = nn.Sequential(_conv(16, 32, stride=2), _Residual(32))
        self.stage2 = nn.Sequential(_conv(32, 64, stride=2), _Residual(64))
        self.stage3 = _conv(64, 96, stride=2)
        self.gdconv = nn.Conv2d(96, 96, 7, groups=96, bias=False)
        self.gdnorm = nn.BatchNorm2d(96)
        self.embedding = nn.Linear(96, embedding_size, bias=False)
        self.norm = nn.BatchNorm1d(embedding_size)

    def forward(self, x: Tensor) -> Tensor:
        """Returns embeddings ``(N, embedding_size)`` of preprocessed images ``(N, 3, 112, 112)``."""
        if x.shape[1:] != (3, 112, 112):
            raise ValueError(
                f"expected images (N, 3, 112, 112), got {tuple(x.shape)}: align and crop the faces"
            )
        x = self.stage3(self.stage2(self.stage1(self.stem(x))))
        x = self.gdnorm(self.gdconv(x)).flatten(1)
        return self.norm(self.embedding(x))


def synthetic(pretrained: bool = True) -> SyntheticFaceNet:
    """Returns the bundled network in eval mode.

    Args:
        pretrained: Load the shipped weights, which ``python docs/studies/train_synthetic.py``
            has produced. ``False`` leaves PyTorch's random initialisation (global generator).

    >>> import torch
    >>> from captum_face.models.synthetic_net import synthetic
    >>> synthetic()(torch.zeros(2, 3, 112, 112)).shape
    torch.Size([2, 64])
    """
    network = SyntheticFaceNet()
    if pretrained:
        from safetensors.torch import load_file

        network.load_state_dict(load_file(WEIGHTS))
    return network.eval()


@cache
def synthetic_metadata() -> dict[str, Any]:
    """What the shipped weights say about themselves: ``eer``, ``threshold``, ``seed``, settings."""
    from safetensors import safe_open

    with safe_open(str(WEIGHTS), framework="pt") as file:
        return {name: json.loads(text) for name, text in file.metadata().items()}


def synthetic_threshold() -> float:
    """The cosine at which the shipped network's two error rates are equal on unseen identities."""
    return float(synthetic_metadata()["threshold"])
