"""A folder with two images and factories of models, and plug-ins that are installed for one test."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from captum_face import METHODS
from captum_face.cli import main
from captum_face.data import render_faces
from captum_face.pair.scores import SCORES

FACTORY = """
import torch
from captum_face import PairSimilarity
from tests.conftest import small_net

def build():
    return small_net()

def build_pair():
    return PairSimilarity(small_net(), threshold=0.3, preprocess="arcface")

def build_flat():
    return torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(48, 8))

def build_numpy():
    return lambda images: images[:, :, ::16, ::16].flatten(1).detach().numpy()

def build_number():
    return 3

def build_picky():
    def model(images):
        raise RuntimeError("only 20 pixels")
    return model
"""


def run(*arguments: object) -> Result:
    """What the command line answers."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Two faces and a module with factories in the current folder."""
    for name, face in zip(("a.png", "b.png"), render_faces(2), strict=True):
        pixels = (255 * face).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(tmp_path / name)
    (tmp_path / "own_models.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def install(tmp_path_factory, monkeypatch):
    """Installs a distribution of one module and its entry points, until the test ends."""
    modules, registries = [], (METHODS, SCORES)

    def add(module: str, code: str, entry_points: str) -> None:
        site = tmp_path_factory.mktemp("site")
        (site / f"{module}.py").write_text(code)
        info = site / f"{module}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(entry_points)
        monkeypatch.syspath_prepend(site)
        importlib.invalidate_caches()
        modules.append(module)
        for registry in registries:
            registry.refresh()

    before = [dict(registry._own) for registry in registries]
    yield add
    monkeypatch.undo()
    for registry, own in zip(registries, before, strict=True):
        for name in registry._own.keys() - own:
            registry.unregister(name)
        registry.refresh()
    for module in modules:
        sys.modules.pop(module, None)


@pytest.fixture
def plug_in(install) -> Callable[[], None]:
    """A method ``plain_grey`` of an installed plug-in, and one that cannot be imported."""
    code = """
import torch
from captum_face import PairAttribution, method, on_sides

@method("plain_grey", family="test", source="nowhere", passes="none")
class PlainGrey(PairAttribution):
    @on_sides
    def attribute(self, sides, *, level=0.5):
        return sides.explain(lambda side: torch.full_like(side.partners, level))
"""
    install("grey_maps", code, "[captum_face.methods]\nplain_grey = grey_maps:PlainGrey\n")
    install("broken_maps", "import no_such_package\n", "[captum_face.methods]\nbroken = broken_maps:Broken\n")
