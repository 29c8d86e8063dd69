"""What ``speed.py`` measures in processes of their own: memory (on a CPU: Linux only) and imports."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from pathlib import Path

import torch
from speed_setup import Setup

from captum_face import FGGB, CorrRISE, attribute_gallery
from captum_face.engines.channels import gradient_channel_maps_chunked, weighted_channel_maps
from captum_face.metrics import perturbation_curve

FIXED = 4  # channels or images in a pass where that is not what is varied


def peak_memory(setup: Setup, work: str, count: int) -> float:
    """MiB above a loaded model after one forward pass."""
    return _apart(_peak, setup, work, count)


def growth(setup: Setup, calls: int) -> float:
    """MiB that a process holds after so many calls beyond what it held after a quarter of them."""
    return _apart(_growth, setup, calls)


def _apart(function, setup: Setup, *arguments) -> float:
    fresh = Setup(setup.model, setup.device, setup.rounds, setup.shared)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, (fresh, *arguments))


def _held(setup: Setup, line: str) -> float:
    """MiB of this process now (VmRSS) or at most since the last reset (VmHWM)."""
    if setup.device == "cuda":
        now = torch.cuda.memory_allocated() if line == "VmRSS" else torch.cuda.max_memory_allocated()
        return now / 2**20
    status = Path("/proc/self/status").read_text()
    return int(next(row for row in status.splitlines() if row.startswith(line)).split()[1]) / 1024


def _peak(setup: Setup, work: str, count: int) -> float:
    pair, images = setup.pair, setup.images
    many = setup.pairs(count) if work in ("gallery", "pairs", "partners") else []
    with torch.no_grad():
        pair(*images)
        inputs = tuple(torch.cat(side) for side in zip(*many, strict=True)) if many else images
    if setup.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    before = _held(setup, "VmRSS")
    with pair.frozen():
        if work in ("fggb", "channels"):
            # Three passes hold as much as all: each frees what the one before it took.
            size, channels = (count, 3 * count) if work == "fggb" else (FIXED, count)
            chunks = gradient_channel_maps_chunked(
                pair, images[0], channels=torch.arange(channels), internal_batch_size=size
            )
            weighted_channel_maps(chunks, torch.ones(1, channels, device=setup.device))
        elif work in ("corrrise", "masks", "pairs", "partners"):
            size = count if work == "corrrise" else FIXED
            masks = {"corrrise": max(3 * count, 64), "masks": count}.get(work, 16)
            inputs = (inputs[0][:1], inputs[1]) if work == "partners" else inputs
            CorrRISE(pair).attribute(inputs, n_masks=masks, perturbations_per_eval=size)
        else:
            # A tolerance leaves fewer channels to compute, but more than go into a pass: only what K adds
            # matters here.
            attribute_gallery(FGGB(pair), images[0], inputs[1], internal_batch_size=FIXED, tolerance=0.5)
    return _held(setup, "VmHWM") - before


def _growth(setup: Setup, calls: int) -> float:
    pair, images = setup.pair, setup.images
    held = []
    for done in range(1, calls + 1):
        FGGB(pair).attribute(images, tolerance=0.95)
        CorrRISE(pair).attribute(images, n_masks=2)
        perturbation_curve(pair, images, (images[0], None), n_steps=1)
        if done in (calls // 4, calls):
            held.append(_held(setup, "VmRSS"))
    return held[-1] - held[0]


def import_seconds(rounds: int) -> tuple[list[float], list[float], list[str]]:
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
    return [float(run[0]) for run in runs], [float(run[1]) for run in runs], runs[0][2:]
