from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys

import pytest


def test_import_loads_nothing_heavy_beyond_captum_attr():
    code = (
        "import sys, captum.attr; before = set(sys.modules); "
        "import captum_face, captum_face.models, captum_face.cli; "
        "heavy = {'zennit', 'torchvision', 'onnx', 'onnx2torch', 'onnxruntime', 'sklearn', 'scipy', "
        "'pandas'}; "
        "print(sorted(heavy & (set(sys.modules) - before)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_public_names_exist_and_are_documented():
    import captum_face

    for name in captum_face.__all__:
        thing = getattr(captum_face, name)
        if callable(thing):
            assert thing.__doc__


def test_registry_public_names_and_pages_are_the_same_methods():
    from pathlib import Path

    import captum_face
    from captum_face import METHODS, PairAttribution

    bases = {"PairAttribution", "EachSide"}  # what a method is built from
    public = {
        name
        for name in captum_face.__all__
        if isinstance(getattr(captum_face, name), type)
        and issubclass(getattr(captum_face, name), PairAttribution)
    }
    registered = {type(method.build(None)).__name__ for method in METHODS.values()}
    assert public - bases == registered
    pages = {path.stem for path in (Path(__file__).parents[1] / "docs" / "methods").glob("*.md")}
    assert pages - {"index"} == set(METHODS)
    assert all(name == method.name for name, method in METHODS.items())


def test_no_module_and_function_share_a_path():
    """``import captum_face.models.synthetic as x`` must not yield a function."""
    import captum_face

    pytest.importorskip("zennit")
    for found in pkgutil.walk_packages(captum_face.__path__, "captum_face."):
        if found.name.endswith("__main__"):
            continue
        module = importlib.import_module(found.name)
        package, name = found.name.rsplit(".", 1)
        assert getattr(sys.modules[package], name) is module, found.name
