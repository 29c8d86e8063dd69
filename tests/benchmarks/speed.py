"""Speed and memory of FGGB and CorrRISE against the naive loop and against the floor.

    python tests/benchmarks/speed.py [--models mobilefacenet,iresnet50] [--rounds 3] [--json FILE]

Everything is measured in one run, round after round, so that a noisy machine disturbs all alike; medians
over the rounds are printed. The floor is what no implementation of the method on this network in
PyTorch can beat without changing the network: for FGGB as many input-only backward passes as there are
channels, for CorrRISE as many forward passes as there are masks, each at the price of the batch size at
which one sample is cheapest. The naive loops are those of published re-implementations: one backward
pass per channel with gradients for parameters on, one forward pass per mask.

"Twin" is the copy with folded BatchNorm and channels last that ``captum_face.speed`` makes, at the batch size
that the methods choose, against the model as it is at the same size.

Weights don't change the speed: random ones will do.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import captum
import torch
from torch import Tensor, nn

from captum_face import FGGB, CorrRISE, PairSimilarity, __version__, models
from captum_face._batching import default_batch_size
from captum_face.channels import gradient_channel_maps_chunked
from captum_face.masks import random_patches
from captum_face.speed import accelerated

BATCHES = (1, 2, 4, 6, 8, 16, 32)
N_MASKS = 500
NAIVE_SAMPLES = 8  # channels or masks of the naive loops that are timed; the rest cost the same


def build(name: str, device: str) -> PairSimilarity:
    torch.manual_seed(0)
    model = getattr(models, name)().eval().to(device)
    return PairSimilarity(model, preprocess="arcface")


def faces(device: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    image_a, image_b = (torch.rand(1, 3, 112, 112, generator=generator).to(device) for _ in range(2))
    return image_a, image_b


def timed(work, device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def backward_per_sample(pair: PairSimilarity, image: Tensor, batch: int, device: str) -> float:
    """One backward pass for the input alone, of as many channels as the batch holds images."""
    with pair.frozen():
        replicas = image.expand(batch, -1, -1, -1).clone().requires_grad_()
        embeddings = nn.functional.normalize(pair.embed(replicas))
        seeds = torch.zeros_like(embeddings)
        seeds[range(batch), range(batch)] = 1
        return timed(lambda: torch.autograd.grad(embeddings, replicas, seeds), device) / batch


def forward_per_sample(pair: PairSimilarity, image: Tensor, batch: int, device: str) -> float:
    replicas = image.expand(batch, -1, -1, -1).clone()
    with torch.no_grad():
        return timed(lambda: pair.embedding_model(pair.preprocess(replicas)), device) / batch


def naive_fggb(pair: PairSimilarity, image: Tensor, device: str) -> float:
    """Seconds a channel, published style: one ``backward()`` each, everything requiring gradients."""
    leaf = image.clone().requires_grad_()
    embeddings = nn.functional.normalize(pair.embed(leaf))

    def channels() -> None:
        for channel in range(NAIVE_SAMPLES):
            leaf.grad = None
            embeddings[0, channel].backward(retain_graph=True)
            channel_map = leaf.grad[0].abs().mean(0)
            channel_map / channel_map.norm()

    seconds = timed(channels, device) / NAIVE_SAMPLES
    pair.zero_grad(set_to_none=True)
    return seconds


def naive_corrrise(pair: PairSimilarity, image: Tensor, partner: Tensor, masks: Tensor) -> None:
    with torch.no_grad():
        for mask in masks[:NAIVE_SAMPLES]:
            pair(image * mask.to(image.device), partner).item()


def measure(name: str, rounds: int, device: str) -> dict[str, float]:
    pair, (image, partner) = build(name, device), faces(device)
    dimensions = pair.embed(image).shape[1]
    masks = random_patches(N_MASKS, (112, 112))
    times: dict[tuple[str, int], list[float]] = defaultdict(list)
    size = default_batch_size(image.device)
    with pair.frozen():
        twin = accelerated(pair, image)
    for batch in BATCHES:  # warm up: kernels are chosen at a shape's first use
        backward_per_sample(pair, image, batch, device)
        forward_per_sample(pair, image, batch, device)
    # Loops are timed per sample, so that a short sample of the naive ones compares with whole runs.
    for done in range(rounds):
        for batch in BATCHES:
            times["backward", batch].append(backward_per_sample(pair, image, batch, device))
            times["forward", batch].append(forward_per_sample(pair, image, batch, device))
        for key, wrapper in (("as it is", pair), ("twin", twin)):
            times[f"backward {key}", 0].append(backward_per_sample(wrapper, image, size, device))
            times[f"forward {key}", 0].append(forward_per_sample(wrapper, image, size, device))
        times["naive fggb", 0].append(naive_fggb(pair, image, device))
        times["naive corrrise", 0].append(
            timed(lambda: naive_corrrise(pair, image, partner, masks), device) / NAIVE_SAMPLES
        )
        work = timed(lambda: FGGB(pair).attribute((image, partner)), device)
        times["fggb", 0].append(work / (2 * dimensions))
        work = timed(lambda: FGGB(pair).attribute((image, partner), tolerance=0.1), device)
        times["fggb tolerance", 0].append(work / (2 * dimensions))
        for batch in BATCHES:  # again: the floor is taken before and after what it is compared with
            times["backward", batch].append(backward_per_sample(pair, image, batch, device))
            times["forward", batch].append(forward_per_sample(pair, image, batch, device))
        work = timed(lambda: CorrRISE(pair).attribute((image, partner), masks=masks), device)
        times["corrrise", 0].append(work / (2 * N_MASKS))
        print(f"{name}: round {done + 1} of {rounds}", file=sys.stderr, flush=True)
    medians = {key: statistics.median(values) for key, values in times.items()}
    floor_backward, batch_backward = min((medians["backward", b], b) for b in BATCHES)
    floor_forward, batch_forward = min((medians["forward", b], b) for b in BATCHES)
    return {
        "dimensions": dimensions,
        "fggb_s_per_pair": 2 * dimensions * medians["fggb", 0],
        "fggb_over_floor": medians["fggb", 0] / floor_backward,
        "naive_over_fggb": medians["naive fggb", 0] / medians["fggb", 0],
        "corrrise_s_per_pair": 2 * N_MASKS * medians["corrrise", 0],
        "corrrise_over_floor": medians["corrrise", 0] / floor_forward,
        "naive_over_corrrise": medians["naive corrrise", 0] / medians["corrrise", 0],
        "tolerance_speedup": medians["fggb", 0] / medians["fggb tolerance", 0],
        "twin_backward_speedup": medians["backward as it is", 0] / medians["backward twin", 0],
        "twin_forward_speedup": medians["forward as it is", 0] / medians["forward twin", 0],
        "cheapest_backward_ms": 1e3 * floor_backward,
        "cheapest_backward_batch": batch_backward,
        "cheapest_forward_ms": 1e3 * floor_forward,
        "cheapest_forward_batch": batch_forward,
        "spread_fggb": max(times["fggb", 0]) / min(times["fggb", 0]),
    }


def peak_memory(name: str, work: str, option: int, device: str) -> float:
    """MiB above a loaded model after one forward pass, in a process of its own (on a CPU: Linux only)."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_memory, (name, work, option, device))


def _peak_memory(name: str, work: str, option: int, device: str) -> float:
    pair, images = build(name, device), faces(device)
    with torch.no_grad():
        pair(*images)

    def held(line: str) -> float:
        """MiB of this process now (VmRSS) or at most since the last reset (VmHWM)."""
        if device == "cuda":
            return torch.cuda.max_memory_allocated() / 2**20
        status = Path("/proc/self/status").read_text()
        return int(next(row for row in status.splitlines() if row.startswith(line)).split()[1]) / 1024

    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    before = held("VmRSS")
    if work == "fggb":
        # Three passes hold as much as all: each frees what the one before it took.
        with pair.frozen():
            chunks = gradient_channel_maps_chunked(pair, images[0], internal_batch_size=option)
            for _ in zip(range(3), chunks, strict=False):
                pass
    else:
        CorrRISE(pair).attribute(images, n_masks=max(3 * option, 64), perturbations_per_eval=option)
    return held("VmHWM") - before


def import_seconds(rounds: int) -> tuple[float, float, list[str]]:
    """What ``import captum_face`` costs beyond ``import captum.attr``, and the heavy modules it adds."""
    code = (
        "import time, sys; t = time.perf_counter(); import captum.attr; a = time.perf_counter() - t; "
        "before = set(sys.modules); t = time.perf_counter(); "
        "import captum_face; b = time.perf_counter() - t; "
        "heavy = {'zennit', 'torchvision', 'onnx', 'onnx2torch', 'onnxruntime', 'sklearn', 'scipy', "
        "'pandas'}; "
        "print(a, b, *sorted(heavy & (set(sys.modules) - before)))"
    )
    runs = []
    for _ in range(rounds):
        command = [sys.executable, "-c", code]
        runs.append(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    captum_s, own_s = (statistics.median(float(run[i]) for run in runs) for i in (0, 1))
    return captum_s, own_s, runs[0][2:]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="mobilefacenet,iresnet50")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    options = parser.parse_args()

    machine = {
        "device": torch.cuda.get_device_name() if options.device == "cuda" else platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "captum": captum.__version__,
        "captum_face": __version__,
    }  # fmt: skip
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    results: dict[str, object] = {"machine": machine}

    captum_s, own_s, heavy = import_seconds(options.rounds)
    added = f"captum_face adds {own_s:.2f} s and of the heavy modules {heavy or 'none'}"
    print(f"\nimport captum.attr {captum_s:.2f} s; {added}")
    results["import"] = {"captum_attr_s": captum_s, "captum_face_adds_s": own_s, "heavy": heavy}

    print(f"\n{'at 112x112, medians of ' + str(options.rounds) + ' rounds':44}", end="")
    names = options.models.split(",")
    figures = {name: measure(name, options.rounds, options.device) for name in names}
    print("".join(f"{name:>16}" for name in names))
    for key, label, form in (
        ("dimensions", "embedding size D", "16.0f"),
        ("fggb_s_per_pair", "FGGB, seconds a pair", "16.2f"),
        ("fggb_over_floor", "FGGB / floor (aim: at most 1.3)", "16.2f"),
        ("naive_over_fggb", "naive loop / FGGB (aim: at least 2)", "16.2f"),
        ("corrrise_s_per_pair", f"CorrRISE, {N_MASKS} masks, seconds a pair", "16.2f"),
        ("corrrise_over_floor", "CorrRISE / floor (aim: at most 1.2)", "16.2f"),
        ("naive_over_corrrise", "loop over single masks / CorrRISE", "16.2f"),
        ("tolerance_speedup", "FGGB / FGGB of tolerance 0.1", "16.2f"),
        ("twin_backward_speedup", "backward pass, model / twin", "16.2f"),
        ("twin_forward_speedup", "forward pass, model / twin", "16.2f"),
        ("cheapest_backward_ms", "cheapest backward of a sample, ms", "16.2f"),
        ("cheapest_backward_batch", "  at batch size", "16.0f"),
        ("cheapest_forward_ms", "cheapest forward of a sample, ms", "16.2f"),
        ("cheapest_forward_batch", "  at batch size", "16.0f"),
        ("spread_fggb", "slowest / fastest round of FGGB", "16.2f"),
    ):
        print(f"{label:44}" + "".join(f"{figures[name][key]:{form}}" for name in names))
    print(f"\n{'peak memory above the loaded model, MiB':44}" + "".join(f"{name:>16}" for name in names))
    for work, title in (
        ("fggb", "FGGB, internal_batch_size"),
        ("corrrise", "CorrRISE, perturbations_per_eval"),
    ):
        for batch in (1, 4, 16, 64):
            row = {name: peak_memory(name, work, batch, options.device) for name in names}
            for name in names:
                figures[name][f"{work}_peak_mib_{batch}"] = row[name]
            print(f"{f'{title}={batch}':44}" + "".join(f"{row[name]:16.0f}" for name in names))
    results["figures"] = figures
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
