from __future__ import annotations

import csv

import halves
import pytest


@pytest.fixture
def folder(tmp_path):
    crops = tmp_path / "crops"
    crops.mkdir()
    for person in range(6):
        for photo in (1, 2, 3):
            (crops / f"{person:03d}_{photo}.png").touch()
    (tmp_path / "pairs.csv").write_text(
        "image_a,image_b,same\n000_1.png,002_1.png,0\n000_1.png,001_1.png,0\n"
    )
    return tmp_path


def test_no_person_is_in_both_halves(run, folder):
    words = "--images", folder / "crops", "--pairs", folder / "pairs.csv", "--output", folder / "out"
    printed = run("halves", *words)
    found = {}
    for half in halves.NAMES:
        with open(folder / "out" / f"{half}.csv", newline="") as file:
            found[half] = [(row["image_a"], row["image_b"], row["same"]) for row in csv.DictReader(file)]
    people = [{halves.person(name) for row in rows for name in row[:2]} for rows in found.values()]
    assert people[0] == {"000", "002", "004"}
    assert people[1] == {"001", "003", "005"}
    for rows in found.values():
        assert [row[2] for row in rows].count("1") == [row[2] for row in rows].count("0") == 9
        assert all((halves.person(a) == halves.person(b)) == (same == "1") for a, b, same in rows)
    assert ("000_1.png", "002_1.png", "0") in found["choose"]  # a listed pair of two people of that half
    assert "9 genuine of 18 pairs, 3 people" in printed


def test_one_person_has_at_most_six_genuine_pairs():
    names = [f"{person}_{photo}.png" for person in "abcd" for photo in range(10)]
    found = halves.halves(names, [])
    assert [sum(same for *_, same in pairs) for pairs in found.values()] == [12, 12]
