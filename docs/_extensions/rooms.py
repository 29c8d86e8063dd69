"""The rooms of the package in their order (``docs/rooms.csv``), and what its modules import of each other.

The tests hold the order with it, and the architecture page is drawn from it.
"""

from __future__ import annotations

import ast
import csv
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]


def read_rooms() -> dict[str, str]:
    """What each room holds, the lowest room first."""
    with open(ROOT / "docs" / "rooms.csv", newline="", encoding="utf-8") as file:
        return {row["room"]: row["holds"] for row in csv.DictReader(file)}


def read_imports() -> dict[str, set[str]]:
    """The modules of the package that each module imports, wherever in it the import stands."""
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in (ROOT / "captum_face").rglob("*.py")
    }
    return {module: _imported(path, modules) - {module} for module, path in modules.items()}


def _imported(path: Path, modules: dict[str, Path]) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            # Of a package, names may be its modules.
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            found |= {name if name in modules else str(node.module) for name in names}
    return found & modules.keys()


def room_of(module: str) -> str:
    """The room of a module; nothing for the package itself."""
    return module.split(".")[1] if "." in module else ""


def room_imports() -> Counter[tuple[str, str]]:
    """How many imports lead from one room to another."""
    return Counter(
        (room_of(module), room_of(other))
        for module, others in read_imports().items()
        for other in others
        if room_of(module) != room_of(other)
    )
