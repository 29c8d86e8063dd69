"""Plug-ins: the example in docs/plugin as pip installs it, and plug-ins that cannot be used."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from captum_face import METHODS, PairAttribution
from captum_face.attr import get_method, method, on_sides
from captum_face.attr.spec import MethodSpec
from captum_face.benchmark import METRICS, PROTOCOLS, benchmark
from captum_face.benchmark.measures import get_metric
from captum_face.data import synthetic_pairs
from captum_face.models import load_pair
from captum_face.pair.scores import SCORES, resolve_score

ROOT = Path(__file__).parents[1]

USES = """
from click.testing import CliRunner
from captum_face import METHODS, explain
from captum_face.cli import main
from captum_face.data import synthetic
from captum_face.models import load_pair
from captum_face.testing import check_method
from torchvision.utils import save_image

def run(*words):
    result = CliRunner().invoke(main, list(words), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output

assert "band_occlusion" in run("methods")
check_method(METHODS["band_occlusion"], {"n_bands": 3})
two = synthetic.pair(seed=1)
save_image(two.image_a, "a.png"), save_image(two.image_b, "b.png")
model = ["--model", "synthetic"]
text = run("explain", "a.png", "b.png", *model, "--method", "band_occlusion:n_bands=4", "--output", "out")
assert ".band_occlusion_n_bands=4.png" in text
text = run("explain", "a.png", "b.png", *model, "--score", "manhattan", "--threshold", "-9",
           "--output", "out")
assert "threshold -9.000" in text
text = run("benchmark", *model, "--synthetic", "4", "--method", "band_occlusion",
           "--metric", "deletion_swap", "--metric", "central_mass", "--output", "bench")
assert "band_occlusion" in text and "central_mass" in text
assert explain(load_pair("synthetic"), two.image_a, two.image_b, "band_occlusion").method == "band_occlusion"
print("all of it")
"""


def test_the_example_works_everywhere(tmp_path):
    shutil.copytree(ROOT / "docs" / "plugin", tmp_path / "plugin")
    command = ["install", "--quiet", "--no-deps", "--no-build-isolation", "--target", str(tmp_path / "site")]
    subprocess.run([sys.executable, "-m", "pip", *command, str(tmp_path / "plugin")], check=True)
    path = os.pathsep.join([str(tmp_path / "site"), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", USES],
        env={**os.environ, "PYTHONPATH": path},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("all of it")


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Installs a distribution with one module and its entry points; names are forgotten afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    before = dict(METHODS._own)

    def install(name, code, group="captum_face.methods", **points):
        module = name.replace("-", "_")
        (tmp_path / f"{module}.py").write_text(code)
        info = tmp_path / f"{module}-2.1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.1\n")
        lines = [f"{key} = {module}:{value}" for key, value in points.items()]
        (info / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines]) + "\n")
        importlib.invalidate_caches()
        for registry in (METHODS, METRICS, SCORES):
            registry.refresh()

    yield install
    METHODS._own = before
    monkeypatch.undo()
    for registry in (METHODS, METRICS, SCORES):
        registry.refresh()
    for module in [name for name in sys.modules if name.startswith("someones")]:
        del sys.modules[module]


GOOD = """
import torch
from captum_face.attr import PairAttribution, method, on_sides

@method("someones", family="null baseline", source="a test", passes="none")
class Someones(PairAttribution):
    @on_sides
    def attribute(self, sides):
        def one(side):
            side.done()
            return torch.ones(len(side.partners), *sides.size)
        return sides.explain(one)
"""


def test_a_plugin_is_a_method_like_any_other(installed):
    assert "someones" not in METHODS
    installed("someones-methods", GOOD, someones="Someones")
    assert "someones" in METHODS
    assert [*METHODS][-1] == "someones"
    assert MethodSpec.of("someones:smooth=2").kind is METHODS["someones"]
    assert METHODS.problems == []


@pytest.mark.parametrize(
    ("code", "points", "reason"),
    [
        ("raise OSError('no\\nlicence')", {"someones": "Someones"}, "OSError: no licence"),
        (GOOD, {"someones": "Nobodys"}, "AttributeError: .*Nobodys"),
        (GOOD, {"fggb": "Someones"}, "the name is taken by captum_face.attr.fggb.FGGB"),
        (GOOD, {"another": "Someones"}, r'expected Someones under @captum_face.attr.method\("another"'),
        ("Someones = int", {"someones": "Someones"}, "expected a subclass of captum_face.PairAttribution"),
        (GOOD.replace("    @on_sides\n", ""), {"someones": "Someones"}, "under @captum_face.attr.on_sides"),
        (
            GOOD.replace("(self, sides)", "(self, sides, *, n)"),
            {"someones": "Someones"},
            "a default for each",
        ),
        (GOOD.replace('"someones"', '"xssab"'), {"someones": "Someones"}, "got 'xssab', which is taken by"),
    ],
)
def test_a_plugin_that_cannot_be_used_is_one_line(installed, code, points, reason):
    (name,) = points
    builtin = list(METHODS)
    installed("someones-methods", code, **points)
    with pytest.warns(UserWarning, match=rf"method '{name}' of someones-methods 2.1 is left out: .*{reason}"):
        listed = list(METHODS)
    assert listed == builtin
    (line,) = METHODS.problems
    assert "\n" not in line
    if name not in builtin:
        with pytest.raises(ValueError, match=f"method '{name}' of someones-methods 2.1 is left out"):
            get_method(name)
    assert get_method("fggb").__module__ == "captum_face.attr.fggb"


def test_two_plugins_of_one_name(installed):
    installed("someones-methods", GOOD, someones="Someones")
    installed("someones-more", GOOD, someones="Someones")
    with pytest.warns(
        UserWarning, match="of someones-more 2.1 is left out: the name is taken by someones-methods"
    ):
        assert "someones" in METHODS


def test_a_score_of_a_plugin(installed):
    code = "from captum_face.pair.scores import Dot\nclass Own(Dot):\n    name = 'own'\n"
    installed("someones-scores", code, group="captum_face.scores", own="Own", other="Own", cosine="Own")
    with pytest.warns(UserWarning, match="is left out"):
        assert list(SCORES) == ["cosine", "dot", "euclidean", "own"]
    assert resolve_score("own").name == "own"
    assert sorted(line.partition(" of ")[0] for line in SCORES.problems) == [
        "score 'cosine'",
        "score 'other'",
    ]


METRIC = """
from captum_face.benchmark import Measured, Metric

def measure(case):
    return Measured(float(case.maps[0].abs().amax()))

OWN = Metric("own", "How large is it?", "higher", "all", "the maximum", measure, {"norm": "largest"})
"""


def test_a_metric_of_a_plugin_is_one_like_any_other(installed, tmp_path):
    builtin, protocols = list(METRICS), dict(PROTOCOLS)
    installed("someones-metrics", METRIC, group="captum_face.metrics", own="OWN")
    assert list(METRICS) == [*builtin, "own"]
    assert get_metric("own") is METRICS["own"]
    assert METRICS.problems == []
    # What is installed does not change what a protocol measures.
    assert (
        protocols
        == PROTOCOLS
        == {kind: tuple(name for name in builtin if METRICS[name].protocol == kind) for kind in PROTOCOLS}
    )
    options = {"methods": "center", "metrics": ["own", "deletion_black"], "threshold": 0.5, "examples": 0}
    result = benchmark(load_pair("synthetic"), synthetic_pairs(2, seed=3), tmp_path / "run", **options)
    assert result.failures == []
    assert result.value("center", "own") == pytest.approx(1, abs=0.01)
    assert result.config["metrics"]["own"]["norm"] == "largest"


@pytest.mark.parametrize(
    ("code", "points", "reason"),
    [
        ("raise ImportError('no\\nlicence')", {"own": "OWN"}, "ImportError: no licence"),
        (METRIC, {"own": "NOBODYS"}, "AttributeError: .*NOBODYS"),
        (METRIC, {"deletion_swap": "OWN"}, "the name is taken by captum_face.benchmark"),
        (METRIC, {"another": "OWN"}, "ValueError: expected a metric of the name 'another', got .* 'own'"),
        (METRIC, {"own": "measure"}, "TypeError: expected a captum_face.benchmark.Metric, got <function"),
        (METRIC.replace('"higher"', '"up"'), {"own": "OWN"}, "unknown direction that is better 'up'"),
    ],
)
def test_a_metric_that_cannot_be_used_is_one_line(installed, code, points, reason):
    (name,) = points
    builtin = list(METRICS)
    installed("someones-metrics", code, group="captum_face.metrics", **points)
    with pytest.warns(UserWarning, match=rf"metric '{name}' of someones-metrics 2.1 is left out: .*{reason}"):
        assert list(METRICS) == builtin
    (line,) = METRICS.problems
    assert "\n" not in line
    if name not in builtin:
        with pytest.raises(ValueError, match=f"metric '{name}' of someones-metrics 2.1 is left out"):
            get_metric(name)
    assert get_metric("deletion_swap").asks.startswith("Do the most similar pixels")


def test_names_in_a_session():
    """A notebook cell that runs again replaces its own class, and no other."""

    def define():
        @method("in_a_session", family="f", source="s", passes="none")
        class Mine(PairAttribution):
            @on_sides
            def attribute(self, sides):
                return sides.explain(lambda side: side.image[:, 0])

        return Mine

    try:
        define()
        second = define()
        assert METHODS["in_a_session"] is second
        with pytest.raises(ValueError, match="expected a free name .* got 'fggb', which is taken by"):
            method("fggb", family="f", source="s", passes="none")(second)
    finally:
        METHODS.unregister("in_a_session")
    with pytest.raises(ValueError, match="unknown method 'in_a_session'"):
        get_method("in_a_session")
