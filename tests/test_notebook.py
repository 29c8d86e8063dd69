from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from captum_face import METHODS, PairSimilarity, explain
from captum_face._progress import progress_bar
from captum_face.benchmark import METRICS
from captum_face.data import synthetic
from captum_face.pair.scores import SCORES
from tests.conftest import small_net

ROOT = Path(__file__).parents[1]


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


CELLS = [
    "import torch\nfrom captum_face import METHODS, explain, identify, show_comparison\n"
    "from captum_face.benchmark import METRICS\nfrom captum_face.data import synthetic\n"
    "from captum_face.models import load_pair\npair, two = load_pair('synthetic'), synthetic.pair(seed=1)\n"
    "explanation = explain(pair, two.image_a, two.image_b, 'corrrise', n_masks=8, show_progress=True)",
    "explanation",
    "explanation.plot()",
    "show_comparison([explanation] * 8)",
    "identify(pair, two.image_a, torch.cat([two.image_b, two.image_a]), 'random', top_k=1)",
    "METHODS",
    "METRICS",
    "explanation.regions[0]",
    "pair",
]


def test_a_notebook_in_a_fresh_kernel(tmp_path):
    """No cell asks for matplotlib, and nothing is written to standard error."""
    nbformat = pytest.importorskip("nbformat")
    executed = pytest.importorskip("nbconvert.preprocessors")
    pytest.importorskip("ipykernel")
    cells = [nbformat.v4.new_code_cell(cell) for cell in CELLS]
    notebook = nbformat.v4.new_notebook(cells=cells)
    executed.ExecutePreprocessor(timeout=120).preprocess(notebook, {"metadata": {"path": str(ROOT)}})
    shown = [
        "".join(kind + str(data) for output in cell.outputs for kind, data in output.get("data", {}).items())
        for cell in notebook.cells
    ]
    errors = [o for cell in notebook.cells for o in cell.outputs if o.get("name") == "stderr"]
    assert not errors
    for source, output in list(zip(CELLS, shown, strict=True))[1:5]:
        assert "image/png" in output or "data:image/png;base64," in output, source
    for source, output in list(zip(CELLS, shown, strict=True))[5:8]:
        assert "<table>" in output, source
    assert "PairSimilarity(" in shown[8]
    assert "\n" not in shown[8]
