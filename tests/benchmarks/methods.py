"""Time and conservation of every registered method on one real pair.

    python tests/benchmarks/methods.py --shared ../shared [--pair 0] [--method NAME]...

For each method: seconds for the pair on the MobileFaceNet of the shared folder, and for each image the sum
of the map over pixels and channels, divided by the score. Only methods that say so aim at 1 there; for the
others the column shows that they measure something else. One thread, options at their defaults.
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path

import torch

from captum_face import METHODS
from captum_face.data.images import load_image
from captum_face.models import load_pair


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shared", type=Path, default=Path(__file__).parents[3] / "shared")
    parser.add_argument("--pair", type=int, default=0, help="row of pairs.csv")
    parser.add_argument("--method", action="append", choices=list(METHODS))
    options = parser.parse_args()

    torch.set_num_threads(1)
    pair = load_pair("mobilefacenet", weights=options.shared / "models" / "mobilefacenet.pt", threshold=0.15)
    with open(options.shared / "data" / "pairs.csv", newline="") as file:
        row = list(csv.DictReader(file))[options.pair]
    image_a, image_b = (
        load_image(options.shared / "data" / "lfw_crops" / row[key]) for key in ("image_a", "image_b")
    )
    with torch.no_grad():
        score = pair(image_a, image_b).item()
    print(f"{row['image_a']} and {row['image_b']}, score {score:.3f}\n")
    print(f"{'method':30}{'family':16}{'seconds':>9}{'sum A / score':>15}{'sum B / score':>15}")
    for name in options.method or METHODS:
        method = METHODS[name]
        built = method.build(pair)
        seed = {"seed": 0} if "seed" in built.options() else {}
        started = time.perf_counter()
        attributions = built.attribute((image_a, image_b), **seed)
        seconds = time.perf_counter() - started
        sums = [float(attr.double().sum()) / score for attr in attributions]
        print(f"{name:30}{method.family:16}{seconds:9.2f}" + "".join(f"{s:15.3g}" for s in sums), flush=True)


if __name__ == "__main__":
    main()
