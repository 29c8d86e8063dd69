"""How many images go through the model at once where the caller does not say."""

from __future__ import annotations

import torch

__all__ = ["default_batch_size"]


def default_batch_size(device: torch.device) -> int:
    """Images in one forward or backward pass of a face network.

    On a CPU 4 for each thread: beyond that the activations of 112 x 112 crops leave the cache, and a
    sample costs more (``tests/benchmarks/speed.py`` prints the cheapest). Accelerators want many.
    """
    return min(4 * torch.get_num_threads(), 64) if device.type == "cpu" else 64
