from __future__ import annotations

import json
import sys

import pytest
import speed
import speed_memory
import torch
from speed_setup import Setup

from captum_face import RISE, CorrRISE, XFace

#: What the first row of each section begins with; the others start processes.
FIRST = {
    "fggb": "FGGB, a pair",
    "tolerance": "channels left at tolerance 0.05",
    "corrrise": "CorrRISE of 4 masks, a pair",
    "morphs": "morph gradients, a pair",
    "precision": "FGGB, float32 / bfloat16",
    "fidelity": "CorrRISE of 4 masks, bfloat16",
    "batch": "the rule: images in a pass",
    "gallery": "FGGB: K = 4 / K = 1",
    "curves": "100 pairs x 10 steps x 4 fills",
    "compile": "torch.compile: seconds",
}


#: Defaults of methods in "gallery".
FEWER = {
    CorrRISE: {"n_masks": 4},
    RISE: {"n_masks": 4},
    XFace: {"sizes": (28,), "stride": 28},
}
WORKS = ("fggb", "channels", "corrrise", "masks", "pairs", "partners", "gallery")


@pytest.fixture
def setup() -> Setup:
    return Setup("synthetic", "cpu", 1, None, fidelity_pairs=1)


@pytest.fixture(autouse=True)
def smallest(monkeypatch):
    pairs = Setup.pairs
    monkeypatch.setattr(Setup, "pairs", lambda self, count: pairs(self, min(count, 2)))
    monkeypatch.setattr(Setup, "sizes", [1])
    monkeypatch.setattr(speed, "N_MASKS", 4)
    monkeypatch.setattr(speed, "N_GALLERY", 4)
    monkeypatch.setattr(speed, "N_GALLERY_SLOW", 2)
    monkeypatch.setattr(torch, "compile", lambda model: model)  # compiling takes minutes


@pytest.mark.parametrize("name", FIRST)
def test_section(setup, name, monkeypatch):
    if name == "gallery":  # fewer than thousands of passes
        for method, options in FEWER.items():
            for option, value in options.items():
                monkeypatch.setitem(method.attribute.on_sides.__kwdefaults__, option, value)
    rows = list(speed.SECTIONS[name][1](setup))
    assert rows[0].what.startswith(FIRST[name])
    assert all(row.values and all(value == value for value in row.values) for row in rows)


def test_every_section_is_tested():
    assert speed.SECTIONS.keys() == FIRST.keys() | {"memory", "leak", "import"}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("work", WORKS)
def test_memory(setup, work):
    assert speed_memory._peak(setup, work, 4) >= 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_in_a_process_of_its_own(setup):
    assert speed_memory.growth(setup, 4) >= 0


def test_import_takes_time_and_adds_no_heavy_modules():
    captum_s, own_s, heavy = speed_memory.import_seconds(1)
    assert min(*captum_s, *own_s) > 0
    assert heavy == []


def test_command_keeps_other_models_of_the_same_machine(run, tmp_path):
    file = tmp_path / "speed.json"
    words = "--only", "batch", "--models", "synthetic", "--rounds", 1, "--device", "cpu", "--json", file
    printed = run("speed", *words)
    assert "Images in one pass: synthetic" in printed
    known = json.loads(file.read_text())
    rows = known["batch"]["rows"]
    rows["the rule: images in a pass"]["values"]["another"] = {"median": 1, "low": 1, "high": 1, "n": 1}
    file.write_text(json.dumps(known))
    run("speed", *words)
    values = json.loads(file.read_text())["batch"]["rows"]["the rule: images in a pass"]["values"]
    assert values.keys() == {"synthetic", "another"}


@pytest.mark.real
def test_real_images(shared):
    setup = Setup("mobilefacenet", "cpu", 1, shared)
    rows = list(speed.batch(setup))
    assert rows[0].what.startswith(FIRST["batch"])
