"""Trains the bundled network: ``python docs/studies/train_synthetic.py``.

The people are families of siblings who share all parts but one to three, photographed under strong
nuisance. Hair and skin colour are therefore not enough: a network that ignores a part cannot tell siblings
apart who differ in it.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear, normalize, one_hot
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from captum_face._files import write_tensors, write_whole
from captum_face.data import synthetic
from captum_face.metrics.verification import eer
from captum_face.models.synthetic_net import WEIGHTS, SyntheticFaceNet

__all__ = ["Settings", "evaluate", "families", "part_drops", "train"]

# Seeds of people who are not in the training data, which uses seeds below it. (Generators on a CPU use
# 32 bits of a seed, and drawing people doubles it.)
UNSEEN = 2**30


@dataclass(frozen=True)
class Settings:
    """All that decides the result. The defaults are those of the shipped weights."""

    seed: int = 0
    families: int = 150
    siblings: int = 20
    epochs: int = 8
    steps: int = 100
    batch_size: int = 64
    learning_rate: float = 8e-3
    scale: float = 30.0
    margin: float = 0.35
    strength: float = 1.0
    erasing: float = 0.2


def families(n: int, siblings: int, seed: int) -> synthetic.Identities:
    """Draws ``n * siblings`` people; siblings follow each other and differ in one to three parts.

    They seldom differ in what is told apart at a glance (skin, hair, beard).
    """
    ancestors = synthetic.sample_identities(n, seed).repeat(siblings)
    others = synthetic.sample_identities(n * siblings, seed + 1)
    generator = torch.Generator().manual_seed(2 * seed)
    odds = torch.tensor([0.2 if p in ("skin", "hair", "beard") else 1.0 for p in synthetic.PARTS])
    order = torch.multinomial(odds.expand(n * siblings, -1), 3, generator=generator)
    count = torch.randint(1, 4, (n * siblings, 1), generator=generator)
    differ = torch.zeros(n * siblings, len(odds), dtype=torch.bool)
    differ.scatter_(1, order, torch.arange(3) < count)
    vectors = {
        part: torch.where(differ[:, [i]], others.vectors[part], ancestors.vectors[part])
        for i, part in enumerate(synthetic.PARTS)
    }
    return synthetic.Identities(vectors)


class _Photos(Dataset[tuple[Tensor, Tensor]]):
    """The batches of one epoch: each a function of the seed, the epoch and its number."""

    def __init__(self, people: synthetic.Identities, settings: Settings, epoch: int) -> None:
        self.people, self.settings, self.epoch = people, settings, epoch

    def __len__(self) -> int:
        return self.settings.steps

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        seed = (self.settings.seed * 1000 + self.epoch) * 10_000 + step
        generator = torch.Generator().manual_seed(seed)
        n = self.settings.batch_size
        photo_seed = int(torch.randint(2**40, 2**41, (), generator=generator))
        labels = torch.randint(len(self.people), (n,), generator=generator)
        photos = synthetic.sample_nuisance(n, photo_seed, self.settings.strength)
        images = synthetic.render(self.people[labels], photos)
        # Random erasing: no single place may carry the whole decision.
        erased = torch.rand(n, generator=generator) < self.settings.erasing
        corner = torch.randint(0, 92, (n, 2), generator=generator)
        size = torch.randint(10, 32, (n, 2), generator=generator)
        grey = torch.rand(n, 3, 1, 1, generator=generator)
        for i in erased.nonzero().flatten().tolist():
            (y, x), (h, w) = corner[i].tolist(), size[i].tolist()
            images[i, :, y : y + h, x : x + w] = grey[i]
        return _preprocess(images), labels


def _traits(people: synthetic.Identities) -> Tensor:
    """All parameters of the people ``(N, parameters)``, standardised; every part weighs the same."""
    traits = []
    for values in people.vectors.values():
        values = (values - values.mean(dim=0)) / values.std(dim=0)
        traits.append(values / values.shape[1] ** 0.5)
    return torch.cat(traits, dim=1)


def _preprocess(images: Tensor) -> Tensor:
    return ((images - 0.5) / 0.5).contiguous(memory_format=torch.channels_last)


def train(settings: Settings, checkpoint: Path | None = None, workers: int = 1) -> SyntheticFaceNet:
    """Trains a network by CosFace (Wang et al., CVPR 2018, arXiv 1801.09414).

    With one difference: class centres are not free, but a learned linear image of the people's
    parameters. Free centres had told 1 % of 1200 people apart after 100 steps, these more than half;
    and every part pulls at the embedding from the first step on.

    Every epoch has a random generator of its own, so a run that was cut off and continues from its
    checkpoint gives what one in a single piece gives.

    Args:
        settings: What to train. The result is a function of it (and of the machine's arithmetic).
        checkpoint: Where to keep the state after each epoch, and whence to resume. Deleting it when
            the result is safe is up to the caller. None keeps nothing.
        workers: Processes that draw the faces while this one learns; the result is the same with 0.

    Returns:
        The network in eval mode.

    Raises:
        ValueError: the checkpoint is of other settings.
    """
    people = families(settings.families, settings.siblings, settings.seed)
    traits = _traits(people)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network = SyntheticFaceNet()
        centre = nn.Linear(traits.shape[1], network.embedding.out_features, bias=False)
        nn.init.orthogonal_(centre.weight)
    trained = nn.ModuleDict({"network": network, "centre": centre})
    total = settings.epochs * settings.steps
    optimizer = torch.optim.AdamW(trained.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=total, pct_start=0.15
    )
    state: dict[str, Any] = {"epoch": 0}
    if checkpoint is not None and checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        if state["settings"] != asdict(settings):
            raise ValueError(
                f"expected a checkpoint of {asdict(settings)}, got one of {state['settings']} in "
                f"{checkpoint}: run with those settings to finish it, or delete the file"
            )
        trained.load_state_dict(state["trained"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])

    trained.train().to(memory_format=torch.channels_last)
    step = state["epoch"] * settings.steps
    with tqdm(total=total, initial=step, desc="training", unit="step", mininterval=2) as bar:
        for epoch in range(state["epoch"], settings.epochs):
            photos = _Photos(people, settings, epoch)
            # A generator of its own: without one, the loader would draw from PyTorch's global one.
            loader = DataLoader(photos, batch_size=None, num_workers=workers, generator=torch.Generator())
            for images, labels in loader:
                cosines = linear(normalize(network(images)), normalize(centre(traits)))
                # The margin grows from zero: at once, it would drown the first lessons.
                margin = settings.margin * min(1.0, 2 * step / total)
                logits = settings.scale * (cosines - margin * one_hot(labels, len(people)))
                loss = cross_entropy(logits, labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                step += 1
                hit = (cosines.argmax(dim=1) == labels).float().mean()
                bar.set_postfix(loss=f"{loss:.2f}", hit=f"{hit:.2f}", refresh=False)
                bar.update()
            if checkpoint is not None:
                state = {
                    "settings": asdict(settings),
                    "epoch": epoch + 1,
                    "trained": trained.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "schedule": schedule.state_dict(),
                }
                write_whole(checkpoint, partial(torch.save, state))
    return network.to(memory_format=torch.contiguous_format).eval()


@torch.no_grad()
def _embed(network: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([normalize(network(_preprocess(part))) for part in images.split(128)])


def evaluate(network: nn.Module, people: int = 500, seed: int = UNSEEN) -> tuple[float, float]:
    """EER and its threshold on unseen people: two photos of each, all impostor pairs among them."""
    who = synthetic.sample_identities(people, seed)
    first, second = (
        _embed(network, synthetic.render(who, synthetic.sample_nuisance(people, seed + k))) for k in (0, 1)
    )
    cosines = first @ second.T
    other = ~torch.eye(people, dtype=torch.bool)
    scores = torch.cat([cosines.diagonal(), cosines[other]])
    found = eer(scores, torch.arange(len(scores)) < people)
    return found.rate, found.threshold


def part_drops(
    network: nn.Module, threshold: float, people: int = 200, seed: int = UNSEEN + 10
) -> dict[str, tuple[float, float]]:
    """What exchanging parts does to genuine pairs of unseen people.

    Returns:
        For each part, and for some pairs of parts, the mean drop of the cosine, and the share of
        accepted pairs that the exchange pushes below the threshold.
    """
    who, others = (synthetic.sample_identities(people, seed + k) for k in (0, 1))
    photos = [synthetic.sample_nuisance(people, seed + k, 0.5) for k in (0, 1)]
    probe = _embed(network, synthetic.render(who, photos[0]))

    def cosine(parts: tuple[str, ...]) -> Tensor:
        images = synthetic.render(who.swap(others, parts), photos[1])
        return (probe * _embed(network, images)).sum(dim=1)

    before = cosine(())
    accepted = before >= threshold
    groups: list[tuple[str, ...]] = [(part,) for part in synthetic.PARTS]
    groups += [("eyes", "brows"), ("nose", "mouth"), ("eyes", "nose", "mouth")]
    drops = {}
    for parts in groups:
        after = cosine(parts)
        rejected = (after[accepted] < threshold).float().mean()
        drops["+".join(parts)] = (float((before - after).mean()), float(rejected))
    return drops


@click.command(context_settings={"show_default": True})
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), default=WEIGHTS)
@click.option("--seed", default=Settings.seed)
@click.option("--epochs", default=Settings.epochs, help="Of --steps batches each.")
@click.option("--steps", default=Settings.steps)
def main(output: Path, seed: int, epochs: int, steps: int) -> None:
    """Trains the network for synthetic faces and writes its weights to OUTPUT.

    A run that was cut off resumes when it is started again.
    """
    settings = Settings(seed=seed, epochs=epochs, steps=steps)
    torch.set_num_threads(1)  # beside the one that draws; and the same arithmetic on any machine
    checkpoint = output.with_name(output.name + ".checkpoint")
    began = time.perf_counter()
    network = train(settings, checkpoint)
    print(f"trained in {time.perf_counter() - began:.0f} s")
    rate, threshold = evaluate(network)
    print(f"equal error rate on unseen identities {100 * rate:.2f} %, threshold {threshold:.3f}")
    print(f"{'exchanged':<16} {'drop of cosine':>14} {'then rejected':>14}")
    for parts, (drop, rejected) in part_drops(network, threshold).items():
        print(f"{parts:<16} {drop:>14.3f} {100 * rejected:>12.0f} %")
    metadata = {"eer": rate, "threshold": threshold, "seed": seed, "settings": asdict(settings)}
    text = {name: json.dumps(value) for name, value in metadata.items()}
    write_tensors(output, network.state_dict(), text)
    checkpoint.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
