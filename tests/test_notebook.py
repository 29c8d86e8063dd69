from __future__ import annotations

import sys

import pytest
import torch

from captum_face import METHODS, PairSimilarity, explain
from captum_face._progress import progress_bar
from captum_face.benchmark import METRICS
from captum_face.data import synthetic
from captum_face.pair.scores import SCORES
from tests.conftest import small_net


def test_registries_are_tables():
    for registry, fact in ((METHODS, "Morph gradients"), (METRICS, "swap"), (SCORES, "(-1.0, 1.0)")):
        shown = registry._repr_html_()
        assert shown.count("<tr>") == len(registry) + 1
        assert fact in shown
        assert all(name in repr(registry) for name in registry)


def test_shares_of_regions_are_a_table():
    two = synthetic.pair(seed=1)
    explanation = explain(PairSimilarity(small_net()), two.image_a, two.image_b, "random")
    shares = explanation.regions[0]._repr_html_()
    assert "<th>dissimilar</th>" in shares
    assert shares.count("<tr>") == len(explanation.regions[0]) + 1


@pytest.mark.parametrize(
    ("preprocess", "shown"),
    [
        ("arcface", "Normalize(mean=0.5, std=0.5"),
        (lambda x: x, "<lambda>"),
        (torch.nn.Sequential(torch.nn.Identity()), "Sequential"),
    ],
)
def test_a_pair_wrapper_is_one_line(preprocess, shown):
    text = repr(PairSimilarity(small_net(), preprocess=preprocess, threshold=0.25))
    assert text.startswith("PairSimilarity(SmallNet, preprocess=")
    assert shown in text
    assert "score=cosine, threshold=0.25" in text
    assert "\n" not in text
    assert " at 0x" not in text


class Shell:
    kernel = "one"


@pytest.mark.parametrize("widgets", [True, False])
def test_bars_in_a_notebook_are_no_errors(monkeypatch, capsys, widgets):
    shell = type(sys)("IPython")
    shell.get_ipython = Shell
    monkeypatch.setitem(sys.modules, "IPython", shell)
    monkeypatch.setattr("captum_face._progress.find_spec", lambda name: shell if widgets else None)
    if widgets:
        made = {}
        notebook = type(sys)("tqdm.notebook")
        notebook.tqdm = lambda **options: made.update(options)
        monkeypatch.setitem(sys.modules, "tqdm.notebook", notebook)
        progress_bar(total=2, desc="faces")
        assert made == {"total": 2, "desc": "faces"}
        return
    with progress_bar(total=2, desc="faces") as bar:
        bar.update(2)
    said = capsys.readouterr()
    assert "faces: 100%" in said.out
    assert not said.err


def test_bars_elsewhere_leave_results_alone(capsys):
    with progress_bar(total=1, desc="faces") as bar:
        bar.update()
    with progress_bar(total=1, disable=True):
        pass
    said = capsys.readouterr()
    assert "faces" in said.err
    assert not said.out
