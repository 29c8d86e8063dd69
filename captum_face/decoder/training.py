"""Trains a decoder: resumable, seeded, stopped by people it does not learn from."""

from __future__ import annotations

import hashlib
import math
import pickle
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, pad

from captum_face._files import write_whole
from captum_face._progress import progress_bar
from captum_face._validation import require_images, require_positive, require_positive_int
from captum_face.decoder.evaluation import evaluate_decoder, warn_without_identity
from captum_face.decoder.network import FaceDecoder, fingerprint
from captum_face.pair.passes import default_batch_size
from captum_face.pair.scores import unit
from captum_face.pair.similarity import PairSimilarity

__all__ = ["DecoderSettings", "split_people", "train_decoder", "training_differences"]

#: Fewer people than this cannot be learned from and judged by.
FEWEST_PEOPLE = 20


@dataclass(frozen=True)
class DecoderSettings:
    """All that decides a decoder, but for the model and the images.

    The loss is ``pixel * mean |x - y| + edge * mean |dx - dy| + perceptual * (1 - cosine)``: x the image, y
    its reconstruction, dx and dy their differences between neighbouring pixels, and the cosine that of the
    model's embeddings of both.

    Raises:
        TypeError, ValueError: counts that are no positive integers, negative or infinite weights, a learning
            rate of 0, a share that leaves nobody to learn from or nobody to hold out.
    """

    seed: int = 0  #: of initialisation, order, augmentation, and who is held out
    steps: int = 1000  #: at most
    batch_size: int = 16
    learning_rate: float = 5e-3  #: the highest; it rises over 5 % of the steps, then falls as a cosine to 0
    width: int = 64  #: of the :class:`FaceDecoder`
    pixel: float = 1.0
    edge: float = 1.0
    #: Grows from 0 over the first half of the steps; 0 for models without gradients. Too much of it teaches
    #: patterns that please the model instead of faces.
    perceptual: float = 0.05
    augment: bool = True  #: mirrored, moved by up to 2 pixels, and tinted images too
    held_out: float = 0.1  #: share of the people who are held out
    evaluate_every: int = 100  #: steps between looks at the held-out people, and between checkpoints
    patience: int = 5  #: looks without a better loss after which it stops

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "width", "evaluate_every", "patience"):
            require_positive_int(getattr(self, name), name)
        for name in ("pixel", "edge", "perceptual"):
            require_positive(getattr(self, name), name, or_zero=True)
        require_positive(self.learning_rate, "learning_rate")
        if not 0 < self.held_out <= 0.5:
            raise ValueError(f"expected held_out as a share above 0 and up to 0.5, got {self.held_out!r}")


def train_decoder(
    pair: PairSimilarity,
    images: Tensor,
    *,
    people: Sequence[str] | None = None,
    settings: DecoderSettings | None = None,
    checkpoint: str | Path | None = None,
    show_progress: bool = False,
) -> FaceDecoder:
    """Trains a decoder of a model's embeddings.

    The decoder that draws the held-out people with the lowest loss is kept. Its :attr:`FaceDecoder.report`
    is measured on these people; as they chose the moment, it is a little too good. Everything random is a
    function of the seed and the step, so a run that was killed and goes on from its checkpoint ends with
    the decoder of one in a single piece.

    Args:
        pair: The model; it is left as it was.
        images: ``(N, C, H, W)`` in [0, 1], aligned as the model expects them.
        people: Who each image shows, so that nobody is both learned from and held out; None where each
            image shows another person.
        settings: None for the defaults of :class:`DecoderSettings`.
        checkpoint: File that keeps the state after each look at the held-out people, and from which a run
            goes on. Deleting it is up to the caller. None keeps nothing. At most ``evaluate_every`` steps
            are lost.
        show_progress: Show a progress bar over the steps.

    Returns:
        The decoder in eval mode.

    Cost: a step is for each image of a batch 2 forward passes of the model and a backward pass, and the
    same for the decoder.

    Raises:
        TypeError: no PairSimilarity, or a model without gradients and ``perceptual`` above 0.
        ValueError: too few people, names that are not one for each image, a damaged checkpoint, or one of
            other settings, images or people or of another model; a loss that is NaN before the first look.

    Warns:
        UserWarning: a loss that became NaN: training stops, and the best decoder so far is returned; a
            decoder that does not keep identity.
    """
    if not isinstance(pair, PairSimilarity):
        raise TypeError(f"expected pair as a PairSimilarity, got {type(pair).__name__}")
    settings = settings or DecoderSettings()
    images = require_images(images).detach()
    learned, held = split_people(people, len(images), settings)
    with pair.frozen():
        known = _embed(pair, images, learned)
        decoder = _new_decoder(pair, images[learned].mean(0), known, settings)
        optimizer = torch.optim.AdamW(decoder.parameters(), lr=settings.learning_rate, weight_decay=1e-2)
        state: dict[str, Any] = {"step": 0, "best": math.inf, "worse": 0, "kept": None}
        path = Path(checkpoint) if checkpoint is not None else None
        run = _run(settings, images, held)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                state = _resume(path, run, decoder, optimizer)
        with progress_bar(
            total=settings.steps, initial=state["step"], desc="train-decoder", disable=not show_progress
        ) as bar:
            for step in range(state["step"], settings.steps):
                if state["worse"] >= settings.patience:
                    break
                loss = judged = _step(pair, decoder, optimizer, images, learned, settings, step)
                look = (step + 1) % settings.evaluate_every == 0 or step + 1 == settings.steps
                if look and math.isfinite(loss):
                    judged = _held_out_loss(pair, decoder, images[held], settings)
                if not math.isfinite(judged):
                    _stopped_by_nan(step, state["kept"])
                    break
                bar.update()
                if not look:
                    continue
                state["step"], state["worse"] = step + 1, state["worse"] + 1
                if judged < state["best"]:
                    kept = {name: value.clone() for name, value in decoder.state_dict().items()}
                    state |= {"best": judged, "worse": 0, "kept": kept}
                bar.set_postfix(loss=f"{loss:.3f}", held_out=f"{judged:.3f}", best=f"{state['best']:.3f}")
                if path is not None:
                    now = {"run": run, "decoder": decoder.state_dict(), "optimizer": optimizer.state_dict()}
                    write_whole(path, partial(torch.save, {**state, **now}))
        decoder.load_state_dict(state["kept"])
        decoder.to(memory_format=torch.contiguous_format).eval()
        names = [people[i] for i in held.tolist()] if people is not None else None
        decoder.report = evaluate_decoder(pair, decoder, images[held], names).as_dict()
        decoder.training_run = run
    warn_without_identity(decoder.report)
    return decoder


def training_differences(
    decoder: FaceDecoder,
    pair: PairSimilarity,
    images: Tensor,
    people: Sequence[str] | None = None,
    settings: DecoderSettings | None = None,
) -> list[str]:
    """What :func:`train_decoder` would do in another way than when it trained this decoder.

    Args:
        decoder: The decoder, as trained or read from its file.
        pair, images, people, settings: As for :func:`train_decoder`.

    Returns:
        Names of settings, ``"images"``, ``"people"`` or ``"model"``, each with what differs where that is
        short; empty if the same training gave the decoder.

    Cost: one forward pass.
    """
    settings = settings or DecoderSettings()
    _, held = split_people(people, len(images), settings)
    return _differences(_run(settings, images, held), decoder.training_run) + (
        [] if _same_model(decoder.fingerprint, pair, images[0]) else ["model"]
    )


def split_people(
    people: Sequence[str] | None, count: int, settings: DecoderSettings
) -> tuple[Tensor, Tensor]:
    """Which images are learned from and which are held out, int64 each; no person is in both.

    Args:
        people: Who each image shows; None where each shows another person.
        count: How many images there are.
        settings: ``seed`` and ``held_out``.

    Raises:
        ValueError: fewer than 20 people, or names that are not one for each image.
    """
    names = list(people) if people is not None else [str(index) for index in range(count)]
    if len(names) != count:
        raise ValueError(f"expected a name for each of {count} images, got {len(names)}")
    everybody = sorted(set(names))
    if len(everybody) < FEWEST_PEOPLE:
        raise ValueError(
            f"expected images of at least {FEWEST_PEOPLE} people, got {len(everybody)} ({count} images); a "
            "decoder that keeps identity needs hundreds"
        )
    generator = torch.Generator().manual_seed(settings.seed)
    order = torch.randperm(len(everybody), generator=generator).tolist()
    aside = {everybody[i] for i in order[: max(2, round(settings.held_out * len(everybody)))]}
    held = torch.tensor([name in aside for name in names])
    return (~held).nonzero()[:, 0], held.nonzero()[:, 0]


def _new_decoder(
    pair: PairSimilarity, average: Tensor, embeddings: Tensor, settings: DecoderSettings
) -> FaceDecoder:
    channels, *size = average.shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        decoder = FaceDecoder(
            embeddings.shape[1], (size[0], size[1]), channels=channels, width=settings.width
        )
    decoder.mean.copy_(embeddings.mean(0))
    decoder.deviation.copy_(embeddings.std(0).clamp(min=1e-4))
    decoder.average.copy_(average.clamp(0.01, 0.99).logit())
    decoder.fingerprint.copy_(fingerprint(pair, channels, decoder.image_size, average))
    return decoder.to(memory_format=torch.channels_last).to(average.device)


def _step(
    pair: PairSimilarity,
    decoder: FaceDecoder,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    learned: Tensor,
    settings: DecoderSettings,
    step: int,
) -> float:
    generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
    batch = images[learned[torch.randint(len(learned), (settings.batch_size,), generator=generator)]]
    if settings.augment:
        batch = _augmented(batch, generator)
    warm = max(1, settings.steps // 20)
    rate = min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * step / settings.steps))
    for group in optimizer.param_groups:
        group["lr"] = settings.learning_rate * rate
    decoder.train()
    growing = replace(settings, perceptual=settings.perceptual * min(1.0, 2 * step / settings.steps))
    loss = _loss(pair, decoder, batch, growing).mean()
    optimizer.zero_grad()
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
    if not torch.isfinite(norm):
        return math.nan
    optimizer.step()
    return float(loss.detach())


def _loss(pair: PairSimilarity, decoder: FaceDecoder, images: Tensor, settings: DecoderSettings) -> Tensor:
    """``(N,)``."""
    with torch.no_grad():
        embeddings = pair.embed(images)
    drawn = decoder(embeddings).to(images)
    loss = settings.pixel * (images - drawn).abs().mean((1, 2, 3))
    if settings.edge:
        for axis in (2, 3):
            loss = loss + settings.edge * (images.diff(dim=axis) - drawn.diff(dim=axis)).abs().mean((1, 2, 3))
    if settings.perceptual and bool(torch.isfinite(drawn).all()):  # else the loss is NaN already
        loss = loss + settings.perceptual * (1 - cosine_similarity(pair.embed(drawn), embeddings))
    return loss


@torch.no_grad()
def _held_out_loss(
    pair: PairSimilarity, decoder: FaceDecoder, images: Tensor, settings: DecoderSettings
) -> float:
    decoder.eval()
    parts = images.split(default_batch_size(images.device))
    return float(torch.cat([_loss(pair, decoder, part, settings) for part in parts]).mean())


def _augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirrored, moved by up to 2 pixels and tinted, each image in its own way."""
    n, colours, height, width = images.shape
    mirrored = torch.rand(n, 1, 1, 1, generator=generator, dtype=torch.float32) < 0.5
    images = torch.where(mirrored.to(images.device), images.flip(3), images)
    padded = pad(images, (2, 2, 2, 2), mode="replicate")
    corners = torch.randint(0, 5, (n, 2), generator=generator).tolist()
    moved = torch.stack(
        [p[:, y : y + height, x : x + width] for p, (y, x) in zip(padded, corners, strict=True)]
    )
    gain = 1 + 0.1 * (2 * torch.rand(n, colours, 1, 1, generator=generator, dtype=torch.float32) - 1)
    shade = 0.05 * (2 * torch.rand(n, 1, 1, 1, generator=generator, dtype=torch.float32) - 1)
    return (moved * gain.to(images) + shade.to(images)).clamp(0, 1)


@torch.no_grad()
def _embed(pair: PairSimilarity, images: Tensor, chosen: Tensor) -> Tensor:
    parts = chosen.split(default_batch_size(images.device))
    return torch.cat([unit(pair.embed(images[part])) for part in parts])


def _digest(images: Tensor) -> str:
    return hashlib.sha256(images.cpu().contiguous().numpy().tobytes()).hexdigest()


def _run(settings: DecoderSettings, images: Tensor, held: Tensor) -> dict[str, Any]:
    """All that decides a training, but for the model, as JSON can hold it."""
    return {**asdict(settings), "images": _digest(images), "people": held.tolist()}


def _differences(run: dict[str, Any], other: dict[str, Any]) -> list[str]:
    named = [name for name in run if other.get(name) != run[name]]
    return [
        name
        if name in ("images", "people")
        else f"{name} ({other.get(name, 'unknown')} there, {run[name]} here)"
        for name in named
    ]


def _same_model(known: Tensor, pair: PairSimilarity, image: Tensor) -> bool:
    channels, height, width = image.shape
    own = fingerprint(pair, channels, (height, width), image)
    return known.shape == own.shape and torch.allclose(known.to(own), own, atol=1e-3)


def _resume(
    path: Path, run: dict[str, Any], decoder: FaceDecoder, optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    own = decoder.fingerprint.clone()
    try:
        state = torch.load(path, map_location=own.device, weights_only=True)
        same_model = torch.allclose(state["decoder"]["fingerprint"], own, atol=1e-3)
        same_run = state["run"] == run
    except (
        pickle.UnpicklingError,
        OSError,
        RuntimeError,
        EOFError,
        KeyError,
        TypeError,
        ValueError,
    ) as error:
        raise ValueError(
            f"expected a checkpoint of train_decoder in {path}, could not read one "
            f"({type(error).__name__}); delete the file to begin again"
        ) from error
    if not (same_run and same_model):
        differing = _differences(run, state["run"]) or ["model"]
        raise ValueError(
            f"expected a checkpoint of this run in {path}, got one that differs in {', '.join(differing)}: "
            "run as before to finish it, or delete the file"
        )
    decoder.load_state_dict(state["decoder"])
    optimizer.load_state_dict(state["optimizer"])
    return {name: state[name] for name in ("step", "best", "worse", "kept")}


def _stopped_by_nan(step: int, kept: object) -> None:
    why = f"the loss of step {step + 1} is NaN or infinite; lower the learning rate"
    if kept is None:
        raise ValueError(f"{why}. There is no good state yet to go back to")
    warnings.warn(f"{why}. Training stopped with the best decoder so far", UserWarning, stacklevel=3)
