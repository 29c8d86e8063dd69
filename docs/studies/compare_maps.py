"""Maps of every method, before and after a change of the code.

    python docs/studies/compare_maps.py --against REV [--shared ../shared] [--dtype float64] [--method NAME]

REV is checked out into a temporary worktree. One process computes maps with the package there, and another
one with the package of this checkout: every registered method with seed 0 on two threads, on

- a synthetic pair with changed brows, eyes and mouth, with the bundled network;
- the first genuine and the first impostor pair of the shared folder, with its MobileFaceNet.

Without the shared folder the synthetic pair stands alone. Options have their defaults, except for those
that are printed: methods that would take minutes do less. Printed is the largest absolute difference over
both images, relative to the largest absolute value of the map before. It is OK up to 1e-6. The exit status
is 1 if a method differs, or exists on one side alone.

Float32 rounds to about 1e-7 in each operation, and some methods amplify that: FAME's gradient steps a
hundredfold and more. ``--dtype float64`` computes model and maps in double precision, and tells rounding
from a change of the computation.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[2]
TOLERANCE = 1e-6
#: Options that differ from the defaults, so that no method takes minutes.
SETTINGS: dict[str, dict[str, Any]] = {"xface": {"stride": 7}}

Maps = dict[tuple[str, str], Any]  # by method and pair: both maps and seconds, or an error's text


def pairs(shared: Path | None, dtype: torch.dtype) -> Iterator[tuple[str, Any, tuple[Tensor, Tensor]]]:
    """Name, pair wrapper and images."""
    from captum_face import PairSimilarity
    from captum_face.data import synthetic
    from captum_face.data.images import load_image
    from captum_face.models import load_pair, mobilefacenet

    faces = synthetic.pair(0, changed=("brows", "eyes", "mouth"))
    yield "synthetic", load_pair("synthetic").to(dtype), (faces.image_a.to(dtype), faces.image_b.to(dtype))
    if shared is None:
        return
    model = mobilefacenet(shared / "models" / "mobilefacenet.pt").eval()
    pair = PairSimilarity(model, preprocess="imagenet", threshold=0.15).to(dtype)
    with open(shared / "data" / "pairs.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for name, same in (("genuine", "1"), ("impostor", "0")):
        row = next(row for row in rows if row["same"] == same)
        folder = shared / "data" / "lfw_crops"
        image_a, image_b = (load_image(folder / row[side]).to(dtype) for side in ("image_a", "image_b"))
        yield name, pair, (image_a, image_b)


def compute(shared: Path | None, only: list[str] | None, dtype: torch.dtype = torch.float32) -> Maps:
    """Maps of every method on every pair, with the package that Python finds."""
    import captum_face
    from captum_face import METHODS

    torch.set_num_threads(2)
    found: Maps = {}
    for pair_name, pair, images in pairs(shared, dtype):
        for name in tqdm(only or METHODS, desc=f"{Path(captum_face.__file__).parent}, {pair_name}"):
            if name not in METHODS:
                continue
            started = time.perf_counter()
            try:
                maps = explained(name, METHODS[name].build(pair), images, pair_name)
                found[name, pair_name] = (*maps, time.perf_counter() - started)
            except Exception as error:  # the others' maps are wanted all the same
                found[name, pair_name] = f"{type(error).__name__}: {error}"
    return found


def explained(name: str, method: Any, images: tuple[Tensor, Tensor], pair_name: str) -> Any:
    options = dict(SETTINGS.get(name, {}))
    if "seed" in method.options():
        options["seed"] = 0
    shipped = pair_name == "synthetic" and images[0].dtype == torch.float32
    if name == "reconstruction" and not shipped:
        options["decoder"] = untrained_decoder(method.forward_func, images[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the untrained decoder, for one
        return method.attribute(images, **options)


def untrained_decoder(pair: Any, image: Tensor) -> Any:
    """A decoder where none is shipped: its maps mean nothing, but are computed as those of a trained one."""
    from captum_face.attr.reconstruction import FaceDecoder

    with torch.no_grad():
        channels = pair.embed(image).shape[1]
    torch.manual_seed(0)
    return FaceDecoder(channels, tuple(image.shape[-2:]), width=8).to(image).eval()


def in_process(folder: Path, output: Path, words: list[str]) -> Maps:
    """:func:`compute` in a process of its own, with the package that lies in a folder."""
    command = [sys.executable, str(Path(__file__).resolve()), "--write", str(output), *words]
    subprocess.run(command, env={**os.environ, "PYTHONPATH": str(folder)}, check=True, cwd=folder)
    return torch.load(output, weights_only=True)


def difference(before: Any, after: Any) -> float | str:
    """The largest difference relative to the largest value, or what went wrong."""
    if isinstance(before, str) or isinstance(after, str):
        if before == after:
            return before
        came = [value if isinstance(value, str) else "a map" for value in (before, after)]
        return f"before {came[0]}; after {came[1]}"
    found = []
    for old, new in zip(before[:2], after[:2], strict=True):
        if old.shape != new.shape:
            return f"before {tuple(old.shape)}, after {tuple(new.shape)}"
        scale = float(old.abs().max())
        apart = float((new.double() - old.double()).abs().max())
        found.append(apart / scale if scale else apart)
    return float(torch.tensor(found).max())  # NaN where one of them is


def print_table(before: Maps, after: Maps) -> bool:
    """Prints the table; whether everything is equal."""
    equal = True
    print(f"{'method':30}{'pair':11}{'difference':>11}  {'':8}{'before':>8}{'after':>8}")
    for name, pair in dict.fromkeys([*before, *after]):
        old, new = (found.get((name, pair), "not registered") for found in (before, after))
        apart = difference(old, new)
        seconds = "".join(f"{'-' if isinstance(v, str) else f'{v[2]:.1f} s':>8}" for v in (old, new))
        if isinstance(apart, str):
            equal &= old == new
            print(f"{name:30}{pair:11}{'-':>11}  {'alike' if old == new else 'differs':8}{seconds}  {apart}")
            continue
        alike = apart <= TOLERANCE
        equal &= alike
        print(f"{name:30}{pair:11}{apart:11.1e}  {'OK' if alike else 'differs':8}{seconds}")
    return equal


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--against", metavar="REV", help="a commit, tag or branch")
    what.add_argument(
        "--write", type=Path, metavar="FILE", help="write the maps of the package that Python finds"
    )
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--method", action="append", help="of these alone; may be given again")
    given = parser.parse_args()
    shared = given.shared.resolve() if (given.shared / "data" / "pairs.csv").is_file() else None

    if given.write:
        torch.save(compute(shared, given.method, getattr(torch, given.dtype)), given.write)
        return

    words = ["--shared", str(given.shared.resolve()), "--dtype", given.dtype]
    words += [word for name in given.method or [] for word in ("--method", name)]
    with tempfile.TemporaryDirectory() as name:
        tree, folder = Path(name) / "tree", Path(name)
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(tree), given.against], check=True)
        try:
            before = in_process(tree, folder / "before.pt", words)
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)
        after = in_process(ROOT, folder / "after.pt", words)
    changed = [f"{name}:{key}={value}" for name, own in SETTINGS.items() for key, value in own.items()]
    print(f"{given.dtype}, defaults but for {', '.join(changed)}")
    if shared is None:
        print(f"no real pairs: expected {given.shared / 'data' / 'pairs.csv'}")
    raise SystemExit(0 if print_table(before, after) else 1)


if __name__ == "__main__":
    main()
