"""Splits people into two halves: methods are chosen on one and reported on the other.

    python docs/studies/halves.py --images lfw_crops [--pairs pairs.csv] --output FOLDER

Writes ``choose.csv`` and ``report.csv``, pair lists for ``captum-face benchmark --pairs``. No person is in
both. The name of a file up to its last number names the person (``010_2.png`` is person 010). Each half has
the genuine pairs of its people, at most six a person, and as many impostor pairs: those of ``--pairs``
whose people both belong to it, and random ones."""

from __future__ import annotations

import argparse
import csv
import itertools
import random
from pathlib import Path

NAMES = ("choose", "report")
#: Genuine pairs of one person, at most: more would let one person decide the result.
MOST = 6

Pairs = list[tuple[str, str, int]]


def person(name: str) -> str:
    return Path(name).stem.rpartition("_")[0]


def halves(names: list[str], listed: list[tuple[str, str]]) -> dict[str, Pairs]:
    """Both halves' pairs.

    Args:
        names: All images.
        listed: Impostor pairs to take before random ones.
    """
    people = sorted({person(name) for name in names})
    found = {}
    for half, own in zip(NAMES, (people[::2], people[1::2]), strict=True):
        rng = random.Random(0)
        images = {who: [name for name in names if person(name) == who] for who in own}
        genuine = []
        for of_one in images.values():
            pairs = [*itertools.combinations(of_one, 2)]
            rng.shuffle(pairs)
            genuine += pairs[:MOST]
        own_names = {name for of_one in images.values() for name in of_one}
        impostor = [pair for pair in listed if own_names.issuperset(pair)]
        while len(impostor) < len(genuine):
            impostor.append(tuple(rng.choice(images[who]) for who in rng.sample(own, 2)))
        rng.shuffle(impostor)
        found[half] = [(*pair, 1) for pair in genuine] + [(*pair, 0) for pair in impostor[: len(genuine)]]
    return found


def of_folder(images: Path, pairs: Path | None) -> dict[str, Pairs]:
    endings = (".png", ".jpg", ".jpeg")
    names = sorted(path.name for path in images.iterdir() if path.suffix.lower() in endings)
    listed = []
    if pairs is not None:
        with open(pairs, newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row["same"] == "0"]
        listed = [(row["image_a"], row["image_b"]) for row in rows]
    return halves(names, listed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--pairs", type=Path)
    parser.add_argument("--output", type=Path, default=Path("."))
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    for half, pairs in of_folder(options.images, options.pairs).items():
        path = options.output / f"{half}.csv"
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["image_a", "image_b", "same"])
            writer.writerows(pairs)
        people = {person(name) for pair in pairs for name in pair[:2]}
        print(
            f"{path}: {sum(same for *_, same in pairs)} genuine of {len(pairs)} pairs, {len(people)} people"
        )


if __name__ == "__main__":
    main()
