"""Tables and texts as wide as the terminal; in a file or a pipe nothing is cut, wrapped or left out."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Sequence

__all__ = ["fitted", "table", "terminal_width"]

_GAP = "  "
_LONGEST_WORD = 32  # longer words, such as paths, are broken
_SHORTEST = 4  # letters of a broken word


def terminal_width() -> int | None:
    """Columns of the terminal that standard output is; None if it is none."""
    return shutil.get_terminal_size().columns if sys.stdout is not None and sys.stdout.isatty() else None


def fitted(text: str, width: int | None, indent: int = 0) -> str:
    """A paragraph behind ``indent`` spaces, its further lines too."""
    lines = [text] if width is None else textwrap.wrap(text, max(width - indent, 20), break_on_hyphens=False)
    return "\n".join(" " * indent + line for line in lines)


def table(
    rows: Sequence[Sequence[str]], width: int | None, *, spare: Sequence[int] = (), right: Sequence[int] = ()
) -> str:
    """Columns of texts, which are wrapped where the table would be too wide.

    Args:
        rows: Of equally many cells; the first may be the head.
        width: Columns of the terminal; None for no limit.
        spare: Columns to leave out where the words of all do not fit beside each other, the first first.
        right: Columns that are aligned to the right.
    """
    kept = list(range(len(rows[0])))
    natural = [max(len(row[i]) for row in rows) for i in kept]
    least = [
        max(min(len(word), _LONGEST_WORD) for row in rows for word in (row[i].split() or [""])) for i in kept
    ]

    def total(widths: Sequence[int]) -> int:
        return sum(widths[i] for i in kept) + len(_GAP) * (len(kept) - 1)

    widths = list(natural)
    if width is not None:
        for column in spare:
            if total(least) > width:
                kept.remove(column)
        # Where nothing else helps, words are broken; but the first column names the row.
        for lowest in (least, [least[0], *[_SHORTEST] * (len(least) - 1)]):
            while total(widths) > width and any(widths[i] > lowest[i] for i in kept):
                widths[max((i for i in kept if widths[i] > lowest[i]), key=widths.__getitem__)] -= 1
    lines = []
    for row in rows:
        cells = [textwrap.wrap(row[i], widths[i], break_on_hyphens=False) or [""] for i in kept]
        for part in range(max(map(len, cells))):
            texts = [cell[part] if part < len(cell) else "" for cell in cells]
            padded = (
                text.rjust(widths[i]) if i in right else text.ljust(widths[i])
                for i, text in zip(kept, texts, strict=True)
            )
            lines.append(_GAP.join(padded).rstrip())
    return "\n".join(lines)
