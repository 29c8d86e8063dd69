from __future__ import annotations

import morphs
import pytest
import torch

from captum_face import MorphGradients

# Each study on its own prints this first word.
STUDIES = {
    "joining": "cohort alone",
    "cohort": "cohort of 1",
    "softness": "softness None",
    "points": "n_points    2",
    "swap": "SwapRISE, n_masks 4",
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # random images look alike to a random network
def test_components_of_the_probe_are_those_of_both_images(pair, images):
    cohort = torch.rand(4, 3, 18, 14, generator=torch.Generator().manual_seed(6))
    inputs = images[0][:1], images[1][:1]
    options = {"n_points": 4, "smoothing": 0, "seed": 0}
    both = MorphGradients(pair, cohort).components(inputs, **options)
    probe = morphs.components_of_probe(pair, cohort, inputs, **options)
    assert len(probe.cohort) == 1
    assert torch.equal(probe.cohort[0], both.cohort[0])
    assert torch.equal(probe.partner[0], both.partner[0])
    assert torch.equal(morphs.joined(probe, 0.0, (0, 0)), both.cohort[0])
    assert torch.equal(morphs.joined(probe, 1.0, (0, 0)), both.partner[0])


def test_every_study_is_run():
    assert morphs.STUDIES.keys() == STUDIES.keys()


@pytest.fixture(scope="module")
def two_pairs(shared):
    return morphs.read_pairs(shared, "choose", 1, 2)


@pytest.mark.real
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", STUDIES)
def test_study(two_pairs, name, monkeypatch, capsys):
    for sizes, smallest in (("SWAP_MASKS", (4,)), ("COHORTS", (1,)), ("SOFTNESSES", (None,))):
        monkeypatch.setattr(morphs, sizes, smallest)
    monkeypatch.setattr(morphs, "COLUMNS", ("partner_swap", "patch_auc"))
    morphs.STUDIES[name](two_pairs)
    assert capsys.readouterr().out.startswith(STUDIES[name])


@pytest.mark.real
def test_command(run, shared):
    printed = run("morphs", "--shared", shared, "--pairs", 1, "--n-points", 2, "--study", "points")
    lines = printed.splitlines()
    assert lines[1] == "points: 1 genuine of 2 pairs"
    assert lines[2].startswith(STUDIES["points"])
