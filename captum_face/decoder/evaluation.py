"""How good a decoder's pictures are, and above all: do they still show the person?"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from captum_face.decoder.network import FaceDecoder, decode
from captum_face.maps.signed import smooth
from captum_face.pair.passes import default_batch_size
from captum_face.pair.scores import unit
from captum_face.pair.similarity import PairSimilarity

__all__ = ["DecoderReport", "evaluate_decoder", "ssim", "warn_without_identity"]


@dataclass(frozen=True)
class DecoderReport:
    """A decoder's pictures of people; made by :func:`evaluate_decoder`.

    Cosines are those of the model's embeddings.
    """

    images: int  #: how many were looked at
    people: int  #: of how many people
    psnr: float  #: mean peak signal-to-noise ratio in decibels, higher is better
    ssim: float  #: mean structural similarity in [-1, 1], higher is better
    identity: float  #: mean cosine of an image and its reconstruction
    confused: float  #: mean cosine of an image and the reconstructions of other people
    impostor: float  #: mean cosine of the images of two people
    impostor_95: float  #: the cosine that 95 % of such pairs stay below
    found: float  #: share of reconstructions that are nearest to an image of their own person

    @property
    def keeps_identity(self) -> bool:
        """Whether an image and its reconstruction are more alike than nearly all impostor pairs."""
        return self.identity > self.impostor_95

    def __str__(self) -> str:
        return (
            f"{self.images} held-out images of {self.people} people: PSNR {self.psnr:.1f} dB, SSIM "
            f"{self.ssim:.3f}; cosine of image and reconstruction {self.identity:.3f} (with other people's "
            f"reconstructions {self.confused:.3f}; of images of two people {self.impostor:.3f}, 95 % below "
            f"{self.impostor_95:.3f}); nearest to its own person {self.found:.0%} (chance "
            f"{1 / self.people:.0%})"
        )

    def as_dict(self) -> dict[str, float]:
        """The values by name, as :attr:`FaceDecoder.report` and the decoder's file hold them."""
        return asdict(self)


def evaluate_decoder(
    pair: PairSimilarity, decoder: FaceDecoder, images: Tensor, people: Sequence[str] | None = None
) -> DecoderReport:
    """Draws images from their embeddings and measures what was kept.

    Args:
        pair: The model.
        decoder: Its decoder.
        images: ``(N, C, H, W)`` in [0, 1] that it was not trained on, of at least two people.
        people: Who each image shows; None where each shows another person.

    Cost: 2 N forward passes of the model and N of the decoder.

    Raises:
        ValueError: one person alone, or names that are not one for each image.
    """
    names = list(people) if people is not None else [str(index) for index in range(len(images))]
    if len(names) != len(images):
        raise ValueError(f"expected a name for each of {len(images)} images, got {len(names)}")
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    if len(numbers) < 2:
        raise ValueError("expected images of at least two people, got one: there is nobody to confuse")
    who = torch.tensor([numbers[name] for name in names], device=images.device)
    own, drawn, psnr, likeness = [], [], [], []
    with pair.frozen(), torch.no_grad():
        for batch in images.split(default_batch_size(images.device)):
            embeddings = pair.embed(batch)
            pictures = decode(decoder, embeddings).to(batch)
            own.append(unit(embeddings))
            drawn.append(unit(pair.embed(pictures)))
            error = (batch - pictures).square().mean((1, 2, 3))
            psnr.append(-10 * error.clamp(min=1e-10).log10())
            likeness.append(ssim(batch, pictures))
    emb, emb_drawn = torch.cat(own), torch.cat(drawn)
    cosines, other = emb_drawn @ emb.T, who[:, None] != who
    impostors = (emb @ emb.T)[other]
    return DecoderReport(
        images=len(images),
        people=len(numbers),
        psnr=float(torch.cat(psnr).mean()),
        ssim=float(torch.cat(likeness).mean()),
        identity=float(cosines.diagonal().mean()),
        confused=float(cosines[other].mean()),
        impostor=float(impostors.mean()),
        impostor_95=float(impostors.double().sort().values[int(0.95 * (len(impostors) - 1))]),
        found=float((who[cosines.argmax(1)] == who).double().mean()),
    )


def ssim(first: Tensor, second: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004, equation 13) of images in [0, 1], averaged over colours.

    Gaussian windows of 11 pixels, sigma 1.5, the constants of the paper, borders mirrored.

    Args:
        first: ``(N, C, H, W)``.
        second: The same.

    Returns:
        ``(N,)`` in [-1, 1], 1 for equal images.
    """
    low, contrast = 0.01**2, 0.03**2

    def local(values: Tensor) -> Tensor:
        return smooth(values, 1.5, kernel_size=11)

    mean_1, mean_2 = local(first), local(second)
    variances = local(first.square()) - mean_1.square() + local(second.square()) - mean_2.square()
    covariance = local(first * second) - mean_1 * mean_2
    luminance = (2 * mean_1 * mean_2 + low) / (mean_1.square() + mean_2.square() + low)
    return (luminance * (2 * covariance + contrast) / (variances + contrast)).mean((1, 2, 3))


def warn_without_identity(report: dict[str, float]) -> None:
    """Warns where the held-out figures say that a decoder's pictures don't show the person."""
    if report and report["identity"] <= report["impostor_95"]:
        warnings.warn(
            f"the decoder does not keep identity: the cosine of an image and its reconstruction is "
            f"{report['identity']:.3f}, and 5 % of impostor pairs reach {report['impostor_95']:.3f}; its "
            "maps then explain the decoder, not the model. Train it on more people, or longer",
            UserWarning,
            stacklevel=3,
        )
