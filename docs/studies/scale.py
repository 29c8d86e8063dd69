"""Memory of a long benchmark: does it grow with the number of pairs?

    python docs/studies/scale.py [--pairs 2000]

Runs the benchmark on many synthetic pairs in a process of its own and prints the memory that it holds after
each tenth of the pairs. Only the list of pairs grows; the records go to the disk."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

METHODS = ("saliency", "xssab")
METRICS = ("deletion_swap", "partner_swap")


def resident(process: int) -> float:
    """MiB that a process holds (Linux)."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


def lines(folder: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("records-*.jsonl"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pairs", type=int, default=2000)
    n_pairs = parser.parse_args().pairs
    total = n_pairs * (len(METHODS) + 2)  # the null baselines are always in
    with tempfile.TemporaryDirectory() as name:
        command = [sys.executable, "-m", "captum_face", "benchmark", "--model", "synthetic", "--output", name]
        command += ["--synthetic", str(n_pairs), "--examples", "0"]
        command += [word for method in METHODS for word in ("--method", method)]
        command += [word for metric in METRICS for word in ("--metric", metric)]
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        tenth, peak = 1, 0.0
        while process.poll() is None:
            time.sleep(0.5)
            try:
                held = resident(process.pid)
            except OSError:
                break
            peak = max(peak, held)
            while tenth <= 10 and lines(Path(name)) >= total * tenth / 10:
                seconds = time.perf_counter() - started
                print(f"{10 * tenth:3d} %  {held:6.0f} MiB  {seconds:5.0f} s", flush=True)
                tenth += 1
        if process.wait():
            raise SystemExit("the benchmark failed; run it by hand to see why: " + " ".join(command))
        print(f"peak, tables included  {peak:6.0f} MiB, {n_pairs} pairs")


if __name__ == "__main__":
    main()
