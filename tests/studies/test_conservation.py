from __future__ import annotations

import pytest
import torch

pytest.importorskip("zennit")

import conservation

from captum_face.models import load_pair


def test_prints_what_each_composite_conserves(run):
    words = "--pairs", 1, "--networks", "synthetic", "--composites", "face,z-plus", "--localisation", 0
    lines = run("conservation", *words).splitlines()
    assert lines[1].startswith("synthetic, 1 pairs of scores ")
    assert [line.split()[0] for line in lines[3:]] == ["face", "z-plus"]
    assert lines[3].split()[1:3] == ["1.000", "1.000"]


def test_a_map_of_the_change_itself_locates_it():
    (change,) = [c for c in conservation.exchanged_parts(1) if c.mask_b.any()][:1]

    def map_of(images):
        lost = -(images[1] - change.images[1]).abs()
        return change.mask_a.double().expand_as(lost) * 0, lost

    left, right = conservation.localisation([change], map_of)
    assert left == pytest.approx(0.5, abs=0.5)  # constant: ties in the order of the pixels
    assert right > 0.8


def test_prints_localisation(capsys, monkeypatch):
    monkeypatch.setattr(conservation, "GAMMAS", ((0.5, 0.2),))
    monkeypatch.setattr(conservation, "COMPARED", ())
    pair = load_pair("synthetic")
    conservation.print_localisation("title", pair, [next(conservation.exchanged_parts(1))])
    printed = capsys.readouterr().out
    assert "title, 1 pairs: ROC area" in printed
    assert [line.split()[0] for line in printed.splitlines()[3:]] == ["face(gamma=0.5,", "FGGB"]


def test_roc_area():
    values = torch.tensor([3.0, 2.0, 1.0, 0.0])
    assert conservation.roc_area(values, torch.tensor([True, True, False, False])) == 1
    assert conservation.roc_area(values, torch.tensor([False, True, True, False])) == 0.5


@pytest.mark.real
def test_real_network(run, shared):
    words = "--pairs", 1, "--networks", "prelu", "--composites", "face", "--localisation", 0
    lines = run("conservation", "--shared", shared, *words).splitlines()
    assert [line.split()[1:3] for line in lines if line.startswith("face")] == [["1.000", "1.000"]]


@pytest.mark.real
def test_real_patches_lie_in_the_second_face(shared):
    for change in conservation.pasted_patches(shared, 1):
        changed = (change.changed_b != change.images[1]).any(1)[0]
        assert not changed[~change.mask_b].any()
        assert changed[change.mask_b].float().mean() > 0.9
