"""The decoder: from a face's embedding back to an image of the face."""

from __future__ import annotations

import itertools
import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from captum_face._files import write_tensors
from captum_face._validation import require_positive_int
from captum_face.pair.scores import unit
from captum_face.pair.similarity import PairSimilarity, frozen

__all__ = ["FaceDecoder", "find_decoder", "fingerprint", "load_decoder", "shipped_decoder"]

_SHIPPED = Path(__file__).parents[1] / "models" / "synthetic_decoder.safetensors"
_SCALE = 16  # four times the size is doubled, the last time by the colours' own convolution
_SAME = 0.99  # cosine of two fingerprints of one model: rounding stays above it, other models far below


class FaceDecoder(nn.Module):
    """Draws the face that an embedding stands for.

    A linear layer spreads the embedding over a coarse grid; three times the grid is doubled bilinearly and
    passed through a 3 x 3 convolution with BatchNorm and leaky ReLU, with ever fewer channels; a last
    convolution gives the colours of 2 x 2 pixels at each place, as what to add to the average face, and a
    sigmoid brings the sum into [0, 1]. No layer mixes places that are far apart.

    Embeddings are scaled to unit length and then standardised channel by channel, by the mean and standard
    deviation of the training images. Made by :func:`~captum_face.decoder.train_decoder` or
    :func:`~captum_face.decoder.load_decoder`; a new one draws noise.

    Args:
        embedding_size: D.
        image_size: Height and width of the images, any.
        channels: Colours, 3 or 1.
        width: Channels of the coarse grid; the size of the network grows with its square.

    Shape: embeddings ``(N, D)`` of any length to images ``(N, channels, H, W)`` in [0, 1].

    Raises:
        ValueError: sizes that are no positive integers; embeddings of another D.

    Example::

        >>> FaceDecoder(7, (18, 14), width=8)(torch.randn(2, 7)).shape
        torch.Size([2, 3, 18, 14])
    """

    mean: Tensor
    deviation: Tensor
    average: Tensor
    fingerprint: Tensor

    def __init__(
        self,
        embedding_size: int,
        image_size: tuple[int, int] = (112, 112),
        *,
        channels: int = 3,
        width: int = 64,
    ) -> None:
        super().__init__()
        self.embedding_size = require_positive_int(embedding_size, "embedding_size")
        height, columns = (require_positive_int(side, "image_size") for side in image_size)
        self.image_size = (height, columns)
        self.channels = require_positive_int(channels, "channels")
        self.width = require_positive_int(width, "width")
        #: What was measured on people it was not trained on, see
        #: :class:`~captum_face.decoder.DecoderReport`; empty for a new one.
        self.report: dict[str, float] = {}
        #: What it was trained by, which is settings and what identifies the images; empty for a new one.
        self.training_run: dict[str, Any] = {}
        self._grid = tuple(-(-side // _SCALE) for side in self.image_size)
        self.start = nn.Linear(embedding_size, self.width * self._grid[0] * self._grid[1])
        widths = [max(4, self.width * share // 8) for share in (8, 8, 6, 4)]
        self.stages = nn.Sequential(
            *(_stage(*ends) for ends in itertools.pairwise(widths)),
            nn.Conv2d(widths[-1], 4 * channels, 3, padding=1),
            nn.PixelShuffle(2),
        )
        self.register_buffer("mean", torch.zeros(embedding_size))
        self.register_buffer("deviation", torch.full((embedding_size,), embedding_size**-0.5))
        # The average face, before the sigmoid.
        self.register_buffer("average", torch.zeros(channels, *self.image_size))
        # Of the model it was trained for; zero: of none.
        self.register_buffer("fingerprint", torch.zeros(embedding_size))

    def forward(self, embeddings: Tensor) -> Tensor:
        """Images ``(N, channels, H, W)`` in [0, 1] in the decoder's precision; differentiable."""
        if embeddings.ndim != 2 or embeddings.shape[1] != self.embedding_size:
            raise ValueError(f"expected embeddings (N, {self.embedding_size}), got {tuple(embeddings.shape)}")
        standardised = (unit(embeddings.to(self.mean)) - self.mean) / self.deviation
        coarse = self.start(standardised).unflatten(1, (self.width, *self._grid))
        height, columns = self.image_size
        return (self.average + self.stages(coarse)[..., :height, :columns]).sigmoid()

    def save(self, path: str | Path) -> None:
        """Writes weights (as float16), sizes, report and training to a ``.safetensors`` file.

        The same decoder gives the same bytes.

        Raises:
            OSError: the file cannot be written.
        """
        state = {
            name: (value.half() if value.is_floating_point() else value).cpu().contiguous()
            for name, value in self.state_dict().items()
        }
        sizes = {name: getattr(self, name) for name in ("embedding_size", "image_size", "channels", "width")}
        facts = {**sizes, "report": self.report, "training_run": self.training_run}
        write_tensors(Path(path), state, {name: json.dumps(value) for name, value in facts.items()})

    def extra_repr(self) -> str:
        return f"embedding_size={self.embedding_size}, image_size={self.image_size}"


def _stage(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.LeakyReLU(0.2),
    )


def load_decoder(path: str | Path) -> FaceDecoder:
    """Reads what :meth:`FaceDecoder.save` wrote, in eval mode and single precision.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a damaged file, or one that holds something else.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"expected the file of a decoder, found nothing at {path}; {_how_to_train()}")
    try:
        with safe_open(str(path), framework="pt") as file:
            facts: dict[str, Any] = {k: json.loads(v) for k, v in (file.metadata() or {}).items()}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 # no mapping
        report, training_run = facts.pop("report"), facts.pop("training_run", {})
        if report and not {"identity", "impostor_95"} <= report.keys():
            raise ValueError("the report of another version")
        decoder = FaceDecoder(facts.pop("embedding_size"), tuple(facts.pop("image_size")), **facts)
        decoder.load_state_dict(state)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"expected a decoder saved by FaceDecoder.save in {path}, could not read one "
            f"({type(error).__name__}); {_how_to_train()}"
        ) from error
    decoder.report, decoder.training_run = report, training_run
    return decoder.eval()


@cache
def shipped_decoder() -> FaceDecoder:
    """The decoder of the bundled synthetic model, trained by ``captum-face train-decoder --synthetic``."""
    return load_decoder(_SHIPPED)


def fingerprint(pair: PairSimilarity, channels: int, size: tuple[int, int], like: Tensor) -> Tensor:
    """The model's unit embedding ``(D,)`` of one fixed pattern: who has another one is another model.

    It works for any callable, and a changed preprocessing changes it too.

    Args:
        pair: The model.
        channels: Colours of its images.
        size: Height and width of its images.
        like: A tensor of the dtype and on the device that the model takes.

    Cost: one forward pass.
    """
    y, x = torch.meshgrid(*(torch.linspace(0, 1, side) for side in size), indexing="ij")
    waves = [torch.sin(7 * (c + 1) * x + 5 * y) * torch.sin(9 * y - 3 * c * x) for c in range(channels)]
    with pair.frozen(), torch.no_grad():
        return unit(pair.embed((0.5 + 0.5 * torch.stack(waves)[None]).to(like)))[0]


def find_decoder(
    pair: PairSimilarity, decoder: FaceDecoder | str | Path | None, embeddings: Tensor, images: Tensor
) -> FaceDecoder:
    """The decoder that draws this model's embeddings.

    Args:
        pair: The model.
        decoder: A decoder, the file of one, or None for the shipped one of the bundled model.
        embeddings: Some of the model's embeddings ``(N, D)``.
        images: Some of its images ``(N, C, H, W)``.

    Returns:
        The decoder, on the images' device.

    Cost: one forward pass, but for a decoder that was made by hand.

    Raises:
        FileNotFoundError, TypeError, ValueError: no decoder for this model, its embedding size or its
            image size; the message says how to train one.
    """
    if decoder is None:
        found = shipped_decoder()
        if not _fits(pair, found, embeddings, images):
            raise ValueError(f"expected a decoder, since none is shipped for this model; {_how_to_train()}")
        return found.to(images.device)
    found = load_decoder(decoder) if isinstance(decoder, (str, Path)) else decoder
    if not isinstance(found, FaceDecoder):
        raise TypeError(f"expected decoder as a FaceDecoder or the file of one, got {type(found).__name__}")
    size = tuple(images.shape[-2:])
    if found.embedding_size != embeddings.shape[1] or found.image_size != size:
        raise ValueError(
            f"expected a decoder of embeddings of {embeddings.shape[1]} channels to images of {size} pixels, "
            f"got one of {found.embedding_size} channels to {found.image_size}; {_how_to_train()}"
        )
    if found.fingerprint.any() and not _fits(pair, found, embeddings, images):
        raise ValueError(
            "expected a decoder of this very model, got one that was trained for another (or for another "
            f"preprocessing): its pictures would mean nothing; {_how_to_train()}"
        )
    return found.to(images.device)


def _fits(pair: PairSimilarity, decoder: FaceDecoder, embeddings: Tensor, images: Tensor) -> bool:
    size = tuple(images.shape[-2:])
    if (decoder.embedding_size, decoder.image_size) != (embeddings.shape[1], size):
        return False
    own = fingerprint(pair, images.shape[1], decoder.image_size, images)
    return float(cosine_similarity(own.float(), decoder.fingerprint.to(own.device).float(), dim=0)) >= _SAME


def decode(decoder: FaceDecoder, embeddings: Tensor) -> Tensor:
    """Pictures ``(N, C, H, W)`` of embeddings, in eval mode and without gradients."""
    with frozen(decoder), torch.no_grad():
        return decoder(embeddings)


def _how_to_train() -> str:
    return (
        "train one with `captum-face train-decoder --images FOLDER --model ... --output FILE` and give it as "
        "decoder=FILE"
    )
