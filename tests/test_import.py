from __future__ import annotations

import subprocess
import sys


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
