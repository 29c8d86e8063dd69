"""Reading what comes next while the model is at work."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["read_ahead"]

Item = TypeVar("Item")
Read = TypeVar("Read")


def read_ahead(read: Callable[[Item], Read], items: Sequence[Item]) -> Iterator[tuple[Item, Read]]:
    """Each item with what is read for it, while the next one's is read in a thread."""
    with ThreadPoolExecutor(max_workers=1) as reader:
        upcoming = [reader.submit(read, item) for item in items[:1]]
        for place, item in enumerate(items):
            result = upcoming.pop().result()
            upcoming += [reader.submit(read, following) for following in items[place + 1 : place + 2]]
            yield item, result
