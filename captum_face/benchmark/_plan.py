"""What all processes of a run agree on before the first explanation."""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from captum_face._progress import progress_bar
from captum_face._validation import require_threshold
from captum_face.attr.spec import MethodSpec
from captum_face.benchmark._distribution import gathered
from captum_face.benchmark.metric import Metric
from captum_face.data.pairs import FacePairs
from captum_face.engines.cohort import People, choose_cohort
from captum_face.metrics.verification import eer
from captum_face.pair.embedding import device_of, read_images
from captum_face.pair.passes import default_batch_size
from captum_face.pair.scores import Threshold, shown_summary, threshold_source
from captum_face.pair.similarity import PairSimilarity
from captum_face.photos.landmarks import check_crops
from captum_face.results._saving import versions

__all__ = ["Plan", "device_of", "make_plan", "own_seed", "run_config"]

#: Of ``config.json`` and the records; other ones are not gone on with.
FORMAT = 2
#: Members of the cohort of a method that compares with other people.
N_COHORT = 16

# Scores differ by less with another number of threads or another processor, and so does a threshold.
_ROUNDING = 1e-5


@dataclass(frozen=True)
class Plan:
    """A run: the model, the pairs, and what is done with them."""

    pair: PairSimilarity
    pairs: FacePairs
    specs: list[MethodSpec]
    metrics: list[Metric]
    threshold: float
    seed: int
    scores: list[float | None]  #: of the pairs; None where an image cannot be read
    accepted: list[bool]
    members: list[str | None]  #: of the cohort, whose pixels stand in for hidden ones, by pair
    cohorts: dict[str, list[str]]  #: whom methods may compare a probe with, by probe
    problems: dict[int, str]  #: why a pair cannot be explained at all
    examples: list[int]  #: pairs whose maps the report shows
    unaligned: dict[str, str]  #: what images look like that do not look like aligned faces, by name

    def config(self) -> dict[str, Any]:
        """What defines the tables beside :func:`run_config`."""
        return {
            "pairs": _described(self.pairs),
            "threshold": {"value": self.threshold, "source": threshold_source(self.threshold)}
            | shown_summary(None, self.threshold),
            "alignment": self.pair.alignment,
            "methods": {spec.label: spec.settings() for spec in self.specs},
            "metrics": {
                metric.name: {
                    "statistic": metric.statistic,
                    "better": metric.better,
                    "meant_for": metric.subset,
                    **metric.definition(),
                }
                for metric in self.metrics
            },
            "examples": self.examples,
        }

    def agreed(self) -> Plan:
        """The same with what the first of all processes found, whose rounding may be another."""
        found = ("threshold", "scores", "accepted", "members", "cohorts", "problems", "examples")
        return replace(self, **gathered({name: getattr(self, name) for name in found})[0])


def run_config(pair: PairSimilarity, seed: int, model_name: str | None) -> dict[str, Any]:
    """What all results of a folder have in common; what may change between sessions (threads) is not in it.

    Args:
        pair: The model.
        seed: Of everything random.
        model_name: What the tables call the model; None for its class.
    """
    return {
        "format": FORMAT,
        "versions": versions(),
        "model": {
            "name": model_name or pair.model_name,
            "weights": _digest(pair),
            "score": pair.score.name,
            "precision": pair.precision,
            # A function's address differs from process to process.
            "preprocess": re.sub(r" at 0x[0-9a-f]+", "", repr(pair.preprocess)),
        },
        "seed": seed,
        "device": device_of(pair).type,
    }


def _described(pairs: FacePairs) -> dict[str, Any]:
    return {
        "source": Path(pairs.source).name,
        "n": len(pairs),
        "n_genuine": int(pairs.same.sum()),
        "fingerprint": pairs.fingerprint(),
    }


def make_plan(
    pair: PairSimilarity,
    pairs: FacePairs,
    specs: list[MethodSpec],
    metrics: list[Metric],
    threshold: float | None,
    seed: int,
    examples: int,
    earlier: dict[str, Any] | None,
    show_progress: bool,
) -> Plan:
    """Embeds all images and decides what follows; ``earlier`` is the configuration of the folder's tables."""
    unaligned: dict[str, str] = {}
    embeddings, unreadable = _embed_images(pair, pairs, unaligned, show_progress)
    problems: dict[int, str] = {}
    scores: list[float | None] = []
    for index, names in enumerate(pairs.names):
        try:
            scores.append(_score(pair, names, embeddings, unreadable))
        except ValueError as error:
            problems[index] = str(error)
            scores.append(None)
    readable = {index: score for index, score in enumerate(scores) if score is not None}
    if not readable:
        raise ValueError(f"expected at least one pair that can be scored, got none: {problems[0]}")
    same = pairs.same.tolist()
    if threshold is None:
        try:
            found = eer(list(readable.values()), [same[i] for i in readable]).threshold
        except ValueError as error:
            raise ValueError(f"no threshold is given, and the pairs' own cannot be found: {error}") from error
        try:
            require_threshold(found, pair.score.limits)
        except ValueError as error:  # the highest scores are those of impostors
            raise ValueError(
                "no threshold is given, and the pairs' own cannot be found: their scores do not tell genuine "
                "from impostor pairs; give a threshold"
            ) from error
        threshold = _without_rounding(
            pair.score.found(found, f"EER of {len(readable)} listed pairs"), pairs, earlier
        )
    people = People(names for names, genuine in zip(pairs.names, same, strict=True) if genuine)
    members: list[str | None] = [None] * len(pairs)
    for index in readable:
        names = pairs.names[index]
        members[index] = next(
            iter(
                choose_cohort(
                    pair,
                    names,
                    _of_size(names[0], embeddings),
                    people,
                    n=1,
                    threshold=threshold,
                    seed=own_seed(seed, *names),
                )
            ),
            None,
        )
    if not any(members) and any(metric.needs_member for metric in metrics):
        first = " and ".join(pairs.names[next(iter(readable))])
        raise ValueError(
            f"expected an image of another person than {first} among those of their size in the pair list, "
            "scored below the threshold with both, found none, and for no other pair either; add pairs of "
            "other people"
        )
    cohorts: dict[str, list[str]] = {}
    if any(spec.cohort_option for spec in specs):
        by_probe: dict[str, list[int]] = {}
        for index in readable:
            by_probe.setdefault(pairs.names[index][0], []).append(index)
        for probe, own in by_probe.items():
            group = dict.fromkeys(name for index in own for name in pairs.names[index])
            cohorts[probe] = choose_cohort(
                pair,
                [*group],
                _of_size(probe, embeddings),
                people,
                n=N_COHORT,
                threshold=threshold,
                seed=own_seed(seed, probe, "bystanders"),
                without={name for index in own if (name := members[index])},
            )
    accepted = [score is not None and score >= threshold for score in scores]
    shown = _choose_examples(list(readable), same, accepted, examples)
    return Plan(
        pair,
        pairs,
        specs,
        metrics,
        threshold,
        seed,
        scores,
        accepted,
        members,
        cohorts,
        problems,
        shown,
        unaligned,
    )


def _without_rounding(threshold: Threshold, pairs: FacePairs, earlier: dict[str, Any] | None) -> Threshold:
    """The folder's threshold where the same pairs gave it: scores depend a little on the processor."""
    if earlier is None or earlier["pairs"] != _described(pairs):
        return threshold
    there, source = earlier["threshold"]["value"], earlier["threshold"]["source"]
    same = math.isclose(there, threshold, rel_tol=_ROUNDING, abs_tol=_ROUNDING) and source == threshold.source
    return Threshold(there, source, threshold.score, threshold.distance) if same else threshold


def _embed_images(
    pair: PairSimilarity, pairs: FacePairs, unaligned: dict[str, str], show_progress: bool
) -> tuple[dict[torch.Size, dict[str, Tensor]], dict[str, str]]:
    """Embeddings ``(D,)`` by image size and name, and why images could not be read or embedded.

    ``unaligned`` gets what images look like that fail their check, by name.
    """
    embeddings: dict[torch.Size, dict[str, Tensor]] = {}
    unreadable: dict[str, str] = {}
    device = device_of(pair)
    size = default_batch_size(device)
    names = pairs.image_names
    with (
        pair.frozen(),
        torch.no_grad(),
        progress_bar(total=len(names), desc="embedding", disable=not show_progress) as bar,
    ):
        for images, unread in read_images(pairs.image, names, size):
            unreadable.update(unread)
            for shape in dict.fromkeys(image.shape for image in images.values()):
                batch = {name: image for name, image in images.items() if image.shape == shape}
                answers, failed = _embedded(pair, batch, device)
                embeddings.setdefault(shape, {}).update(answers)
                unreadable.update(failed)
                checks = check_crops(torch.stack(list(batch.values())), pair.template)
                unaligned.update(
                    (name, check.looks)
                    for name, check in zip(batch, checks, strict=False)
                    if not check.passed
                )
            bar.update(len(images) + len(unread))
    return embeddings, unreadable


def _of_size(name: str, embeddings: dict[torch.Size, dict[str, Tensor]]) -> dict[str, Tensor]:
    """The embeddings of all images that are as large as one of them."""
    return next(of_size for of_size in embeddings.values() if name in of_size)


def _embedded(
    pair: PairSimilarity, images: dict[str, Tensor], device: torch.device
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Embeddings of images by name, and why there is none of some: one bad image does not end a run."""
    try:
        answers = pair.embed_in_passes(torch.stack(list(images.values())).to(device))
        return dict(zip(images, answers, strict=True)), {}
    except Exception as error:  # whatever a model raises
        embedded, failed = {}, {}
        for name, image in images.items():
            try:
                embedded[name] = pair.embed(image[None].to(device))[0]
            except Exception as own:
                failed[name] = f"{name}: {type(own).__name__}: {own}"
        if not failed:  # then it is the batch that the model cannot take
            raise error
        return embedded, failed


def _score(
    pair: PairSimilarity,
    names: tuple[str, str],
    embeddings: dict[torch.Size, dict[str, Tensor]],
    unreadable: dict[str, str],
) -> float:
    for name in names:
        if name in unreadable:
            raise ValueError(unreadable[name])
    of_size = _of_size(names[0], embeddings)
    if names[1] not in of_size:
        raise ValueError(f"expected two images of one size, got others in {names[0]} and {names[1]}")
    with torch.no_grad():
        return float(pair.contributions(*(of_size[name][None] for name in names)).sum(-1))


def _choose_examples(readable: list[int], same: list[bool], accepted: list[bool], n: int) -> list[int]:
    """The first pair of each kind of decision, then the second of each, until there are ``n``."""
    kinds: dict[tuple[bool, bool], list[int]] = {}
    for index in readable:
        kinds.setdefault((same[index], accepted[index]), []).append(index)
    return [kind[i] for i in range(len(readable)) for kind in kinds.values() if i < len(kind)][:n]


def own_seed(seed: int, *names: str) -> int:
    """A seed of an image's or a pair's own, whatever else is in the run and whoever computes it."""
    digest = hashlib.sha256("\0".join((str(seed), *names)).encode()).digest()
    return int.from_bytes(digest[:4], "big")


def _digest(pair: PairSimilarity) -> str:
    """SHA-256 of the model's weights; of nothing for a callable that hides them."""
    digest = hashlib.sha256()
    for name, value in pair.state_dict().items():
        digest.update(name.encode())
        if isinstance(value, Tensor):
            digest.update(value.detach().cpu().flatten().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
