"""Several processes, on one machine or many, that share out the pairs of one run."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist

__all__ = ["distributed", "gathered", "gathered_by_first", "process"]

# A process may have to wait for the slowest one's last pair.
_PATIENCE = datetime.timedelta(days=7)


@contextmanager
def distributed() -> Iterator[tuple[int, int]]:
    """Joins the other processes where ``torchrun`` started this one; alone it does nothing.

    Yields:
        This process' rank among all, and among those of its machine.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield 0, 0
        return
    dist.init_process_group("gloo", timeout=_PATIENCE)
    try:
        yield dist.get_rank(), int(os.environ.get("LOCAL_RANK", "0"))
    finally:
        dist.destroy_process_group()


def process() -> tuple[int, int]:
    """This process' rank, and how many there are."""
    return (dist.get_rank(), dist.get_world_size()) if _joined() else (0, 1)


def gathered(value: Any) -> list[Any]:
    """Every process' value, in all processes; returns when the slowest has come."""
    if not _joined():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def gathered_by_first(value: Any) -> list[Any]:
    """Every process' value in the first process, nothing in the others."""
    if not _joined():
        return [value]
    rank, world = process()
    values: list[Any] | None = [None] * world if rank == 0 else None
    dist.gather_object(value, values)
    return values or []


def _joined() -> bool:
    return dist.is_available() and dist.is_initialized()
