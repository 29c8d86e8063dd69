"""Checks of user input. Each says what was expected, what came and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["require_choice"]


def require_choice(value: object, choices: Iterable[str], what: str) -> str:
    """Returns ``value`` if it is one of ``choices``; else raises and names the nearest one.

    Args:
        value: What the user gave.
        choices: The names that exist.
        what: What the name is for, as the message shall call it (``"method"``).

    Raises:
        TypeError: ``value`` is not a string.
        ValueError: ``value`` is not among ``choices``.
    """
    names = list(choices)
    if not isinstance(value, str):
        raise TypeError(f"expected the name of a {what} ({', '.join(names)}), got {value!r}")
    if value in names:
        return value
    near = difflib.get_close_matches(value.lower(), names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"unknown {what} {value!r}: expected one of {', '.join(names)}{hint}")
