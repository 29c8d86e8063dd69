"""Imports run downwards only: the rooms in their order are those of docs/rooms.csv."""

from __future__ import annotations

import pytest
from rooms import read_imports, read_rooms, room_of

ROOMS = list(read_rooms())
IMPORTS = read_imports()


def test_every_module_has_a_room():
    assert {room_of(module) for module in IMPORTS} - {"", "__main__"} == set(ROOMS)


@pytest.mark.parametrize("name", ROOMS)
def test_imports_run_downwards(name):
    upwards = [
        f"{module} imports {other}"
        for module, others in IMPORTS.items()
        if room_of(module) == name
        for other in others
        if room_of(other) == "" or ROOMS.index(room_of(other)) > ROOMS.index(name)
    ]
    assert upwards == []


def test_no_circle_of_imports():
    """Also inside a room."""
    done, circles = set(), []

    def walk(module, way):
        if module in way:
            circles.append(" -> ".join([*way[way.index(module) :], module]))
        elif module not in done:
            for other in sorted(IMPORTS[module]):
                walk(other, [*way, module])
            done.add(module)

    for module in sorted(IMPORTS):
        walk(module, [])
    assert circles == []


def test_what_the_tests_see():
    assert "captum_face.pair.similarity" in IMPORTS["captum_face.attr.base"]
    assert "captum_face.engines.sides" in IMPORTS["captum_face.attr.fggb"]
    assert ROOMS.index("pair") < ROOMS.index("engines") < ROOMS.index("attr") < ROOMS.index("cli")


def test_every_import_is_absolute():
    """So that the tests see it, and a reader knows where a name comes from."""
    from rooms import ROOT

    texts = [path.read_text("utf-8") for path in (ROOT / "captum_face").rglob("*.py")]
    assert not any(line.startswith("from .") for text in texts for line in text.splitlines())
