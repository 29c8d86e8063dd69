"""The model and the images that ``speed.py`` measures with."""

from __future__ import annotations

import copy
import csv
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from captum_face import PairSimilarity, models
from captum_face.data.images import load_image

Images = tuple[Tensor, Tensor]
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}


class Setup:
    """One network on one device."""

    def __init__(
        self,
        model: str,
        device: str,
        rounds: int,
        shared: Path | None,
        fidelity_pairs: int = 4,
        clock: str = "wall",
    ) -> None:
        self.model, self.device, self.rounds, self.shared = model, device, rounds, shared
        self.fidelity_pairs, self.clock = fidelity_pairs, CLOCKS[clock]

    @cached_property
    def pair(self) -> PairSimilarity:
        torch.manual_seed(0)
        build = getattr(models, self.model)
        if self.model == "mobilefacenet":
            weights = [] if self.shared is None else [self.shared / "models" / "mobilefacenet.pt"]
            pair = PairSimilarity(build(*weights), preprocess="imagenet", threshold=0.15)
        else:
            pair = PairSimilarity(build(), preprocess="arcface", threshold=0.15)
            self._give_statistics(pair)
        return pair.eval().to(self.device)

    def _give_statistics(self, pair: PairSimilarity) -> None:
        """BatchNorm statistics of these images, so that activations are spread as in a trained network."""
        for norm in pair.modules():
            if isinstance(norm, torch.nn.modules.batchnorm._BatchNorm):
                norm.reset_running_stats()
                norm.momentum = None
        faces = torch.cat([image for images in self.pairs(6) for image in images]).cpu()
        pair.embedding_model.train()
        with torch.no_grad():
            pair.embedding_model(pair.preprocess(faces))
        pair.eval()

    def in_precision(self, precision: str) -> PairSimilarity:
        pair = copy.copy(self.pair)
        pair.precision = precision
        return pair

    @property
    def images(self) -> Images:
        return self.pairs(1)[0]

    def pairs(self, count: int) -> list[Images]:
        """Genuine and impostor pairs alternate; real ones where there is a shared folder."""
        if self.shared is None:
            generator = torch.Generator().manual_seed(0)
            drawn = torch.rand(count, 2, 1, 3, 112, 112, generator=generator).to(self.device)
            return [(a, b) for a, b in drawn]
        with open(self.shared / "data" / "pairs.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        kinds = [[row for row in rows if row["same"] == same] for same in "10"]
        chosen = [row for both in zip(*kinds, strict=False) for row in both][:count]
        folder = self.shared / "data" / "lfw_crops"
        return [
            (
                load_image(folder / row["image_a"]).to(self.device),
                load_image(folder / row["image_b"]).to(self.device),
            )
            for row in chosen
        ]

    @property
    def sizes(self) -> list[int]:
        """Batch sizes among which the floor is the cheapest."""
        if self.device == "cuda":
            return [16, 32, 64, 128, 256]
        return [n * torch.get_num_threads() for n in (1, 2, 4, 8)]

    def timed(self, work: Callable[[], object]) -> float:
        if self.device == "cuda":
            torch.cuda.synchronize()
        started = self.clock()
        work()
        if self.device == "cuda":
            torch.cuda.synchronize()
        return self.clock() - started
