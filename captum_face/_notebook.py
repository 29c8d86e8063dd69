"""HTML in which results show themselves in a notebook."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence

__all__ = ["paragraphs", "picture", "table"]


def picture(png: bytes, description: str) -> str:
    """A picture of at most the page's width; ``description`` is for those who do not see it."""
    data = base64.b64encode(png).decode()
    return (
        f'<img alt="{html.escape(description)}" style="max-width: 100%" src="data:image/png;base64,{data}">'
    )


def table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """A table; None is an empty cell."""
    lines = [
        "<tr>" + "".join(f"<{tag}>{html.escape(_text(cell))}</{tag}>" for cell in row) + "</tr>"
        for tag, row in [("th", head), *(("td", row) for row in rows)]
    ]
    return f"<table>{''.join(lines)}</table>"


def paragraphs(texts: Iterable[str]) -> str:
    """A paragraph for each text."""
    return "".join(f"<p>{html.escape(text)}</p>" for text in texts)


def _text(cell: object) -> str:
    return "" if cell is None else str(cell)
