"""How many images go through the model at once, where the caller does not say and where memory runs out."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor

from captum_face._validation import require_positive_int

__all__ = [
    "BATCH_OPTIONS",
    "BatchSize",
    "batches_of",
    "cheapest_batch_size",
    "default_batch_size",
    "digest",
    "in_passes",
    "is_out_of_memory",
    "require_batch_size",
]

#: What a caller may say about the images in one pass, a number, a measurement (``"auto"``) or nothing.
BatchSize = int | Literal["auto"] | None

#: What methods call the images in one pass, after Captum, and what each counts.
BATCH_OPTIONS = {
    "internal_batch_size": "images that go forward and backward",
    "perturbations_per_eval": "perturbed images that go forward",
}


_chosen: int | None = None  # what a command line says for its whole run


@contextmanager
def batches_of(size: int | None) -> Iterator[None]:
    """While it lasts, :func:`default_batch_size` is ``size`` unless that is None; for the whole process."""
    global _chosen
    before, _chosen = _chosen, size
    try:
        yield
    finally:
        _chosen = before


def default_batch_size(device: torch.device, precision: str = "float32", service: int | None = None) -> int:
    """Images in one forward or backward pass of a face network, or in one request to a service.

    On a CPU 4 for each thread: beyond that the activations of 112 x 112 crops leave the cache, and a
    sample costs about the same (``docs/studies/speed.py --only batch`` compares). Units for bfloat16 are
    fed by larger matrices, and autocast reads all weights once a pass: 16. Accelerators want many.
    """
    if _chosen is not None:
        return _chosen
    if service is not None:
        return service
    for_thread = 16 if precision == "bfloat16" else 4
    return min(for_thread * torch.get_num_threads(), 64) if device.type == "cpu" else 64


def require_batch_size(value: object, what: str) -> None:
    """Checks a :data:`BatchSize`."""
    if isinstance(value, str) and value != "auto":
        raise ValueError(f"expected {what} as a positive number, 'auto' or None, got {value!r}")
    if value is not None and value != "auto":
        require_positive_int(value, what)


def cheapest_batch_size(run: Callable[[int], object], device: torch.device, rule: int) -> int:
    """The images in one pass at which each of them costs least, measured.

    Sizes are doubled from a quarter of the rule to four times it, and not further than two that do not pay or
    than memory lasts. Another size than the rule's must save 5 % to be chosen, so that the noise of a
    measurement does not lead away from it.

    Args:
        run: Makes one pass of so many images.
        device: Where it runs.
        rule: The images in one pass that are taken unmeasured, from :func:`default_batch_size`.

    Cost: two passes of each size, at most 16 times the rule's images in all.
    """
    size = best = start = max(1, rule // 4)
    costs: dict[int, float] = {}
    while size <= min(16 * start, 4 * best):
        try:
            costs[size] = min(_seconds(run, size, device) for _ in range(2)) / size  # the first warms up
        except (RuntimeError, MemoryError) as error:
            if size == start or not is_out_of_memory(error):
                raise
            break
        if costs[size] < costs[best]:
            best = size
        size *= 2
    return best if costs[best] < 0.95 * costs.get(rule, float("inf")) else rule


def _seconds(run: Callable[[int], object], size: int, device: torch.device) -> float:
    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    # A single thread's own time is not disturbed by other processes.
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.thread_time if alone else time.perf_counter
    wait()
    started = clock()
    run(size)
    wait()
    return clock() - started


#: How allocators of all kinds say that nothing is left.
_NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an accelerator, the CPU's allocator or Python had no memory left."""
    return isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in _NO_MEMORY)
    )


def in_passes(work: Callable[[Tensor], Tensor], items: Tensor, size: int) -> Iterator[Tensor]:
    """``work`` on ``size`` items after the other, and on half as many from where memory runs out.

    Raises:
        RuntimeError, MemoryError: out of memory with a single item.
    """
    start = 0
    while start < len(items):
        chunk = items[start : start + size]
        try:
            result = work(chunk)
        except (RuntimeError, MemoryError) as error:
            if len(chunk) == 1 or not is_out_of_memory(error):
                raise
            # Tried again below, where the error no longer holds on to what was computed.
            size = len(chunk) // 2
            continue
        yield result
        start += len(chunk)


def digest(image: Tensor) -> Hashable:
    """Equal for equal images ``(C, H, W)``."""
    data = image.detach().cpu().contiguous().view(torch.uint8).numpy()
    return tuple(image.shape), image.dtype, hashlib.sha256(data.tobytes()).digest()
