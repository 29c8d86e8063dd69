"""How many images go through the model at once, where the caller does not say and where memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

__all__ = ["default_batch_size", "in_passes", "is_out_of_memory"]


def default_batch_size(device: torch.device) -> int:
    """Images in one forward or backward pass of a face network.

    On a CPU 4 for each thread: beyond that the activations of 112 x 112 crops leave the cache, and a
    sample costs more (``tests/benchmarks/speed.py`` prints the cheapest). Accelerators want many.
    """
    return min(4 * torch.get_num_threads(), 64) if device.type == "cpu" else 64


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an accelerator or the CPU's allocator had no memory left."""
    return isinstance(error, torch.cuda.OutOfMemoryError) or (
        isinstance(error, RuntimeError)
        and any(text in str(error) for text in ("out of memory", "can't allocate memory"))
    )


def in_passes(work: Callable[[Tensor], Tensor], items: Tensor, size: int) -> Iterator[Tensor]:
    """``work`` on ``size`` items after the other, and on half as many from where memory runs out.

    Raises:
        RuntimeError: out of memory with a single item.
    """
    start = 0
    while start < len(items):
        chunk = items[start : start + size]
        try:
            result = work(chunk)
        except RuntimeError as error:
            if len(chunk) == 1 or not is_out_of_memory(error):
                raise
            # Tried again below, where the error no longer holds on to what was computed.
            size = len(chunk) // 2
            continue
        yield result
        start += len(chunk)
