from __future__ import annotations

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import captum_face


def loaded(code: str) -> set[str]:
    """The packages that a fresh interpreter has loaded after ``code``."""
    code = f"{code}; import sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(result.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "code",
    [
        "import captum_face, captum_face.cli",
        "from captum_face.cli import main; main(['--help'], standalone_mode=False)",
        "from captum_face.cli import main; main(['--version'], standalone_mode=False)",
    ],
)
def test_neither_import_nor_help_loads_torch(code):
    assert not loaded(code) & {"torch", "captum", "matplotlib", "numpy", "PIL"}


def test_commands_load_nothing_heavy_beyond_captum_attr():
    code = (
        "import sys, captum.attr; before = set(sys.modules); import captum_face.models; "
        "from captum_face import *; "
        "from captum_face.cli import align, demo, explain, identify, threshold, benchmark; "
        "from captum_face.cli import train_decoder, methods; "
        "[sys.modules.pop(name) for name in before - {'sys', 'builtins'}]"
    )
    heavy = {"zennit", "torchvision", "onnx", "onnx2torch", "onnxruntime", "sklearn", "scipy", "pandas"}
    found = loaded(code)
    assert "captum_face" in found
    assert not heavy & found


def test_public_names_are_those_that_type_checkers_see():
    tree = ast.parse(Path(captum_face.__file__).read_text("utf-8"))
    (block,) = (
        node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    imported = {alias.name: node.module for node in block.body for alias in node.names}
    assert {*imported, "__version__"} == set(captum_face.__all__)
    assert set(captum_face.__all__) <= set(dir(captum_face))
    for name, module in imported.items():
        assert captum_face._HOMES[name] == module
        assert getattr(captum_face, name) is getattr(importlib.import_module(module), name)


def test_packages_are_attributes_and_nothing_else_is():
    for name in ("models", "data", "testing"):
        assert captum_face.__getattr__(name) is importlib.import_module(f"captum_face.{name}")
    with pytest.raises(AttributeError, match="has no attribute 'explian'"):
        captum_face.explian  # noqa: B018
    with pytest.raises(ImportError, match="explian"):
        exec("from captum_face import explian")


def test_public_names_exist_and_are_documented():
    for name in captum_face.__all__:
        thing = getattr(captum_face, name)
        if callable(thing):
            assert thing.__doc__


def test_registry_public_names_and_pages_are_the_same_methods():
    from captum_face import METHODS, PairAttribution

    bases = {"PairAttribution", "EachSide"}  # what a method is built from
    public = {
        name
        for name in captum_face.__all__
        if isinstance(getattr(captum_face, name), type)
        and issubclass(getattr(captum_face, name), PairAttribution)
    }
    registered = {method.__name__ for method in METHODS.values()}
    assert public - bases == registered
    pages = {path.stem for path in (Path(__file__).parents[1] / "docs" / "methods").glob("*.md")}
    assert pages - {"index"} == set(METHODS)
    assert all(name == method.name for name, method in METHODS.items())


def test_no_module_and_function_share_a_path():
    """``import captum_face.models.synthetic as x`` must not yield a function."""
    pytest.importorskip("zennit")
    for found in pkgutil.walk_packages(captum_face.__path__, "captum_face."):
        if found.name == "captum_face.__main__":
            continue
        module = importlib.import_module(found.name)
        package, _, name = found.name.rpartition(".")
        assert getattr(sys.modules[package], name) is module, found.name
        # Where the module is imported later, it would take the function's place.
        tree = ast.parse(Path(sys.modules[package].__file__).read_text("utf-8"))
        bound = {a.asname or a.name for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for a in n.names}
        bound |= {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
        assert name not in bound, found.name
