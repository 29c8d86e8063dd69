"""Settings of the documentation.

Build it with ``python -m sphinx -W --keep-going -b html docs docs/_build/html``.

Nothing is fetched while it builds: the figures are drawn from the bundled synthetic faces and the bundled
model, the tables from the package's registries, and the command line's help from the commands themselves.
"""

import sys
from pathlib import Path

import captum_face

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_extensions"))

project = "captum_face"
author = "The captum_face developers"
project_copyright = author
version = release = captum_face.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "matplotlib.sphinxext.plot_directive",
    "from_package",  # in docs/_extensions
]
exclude_patterns = ["_build", "_extensions", "figures"]

html_theme = "furo"
html_title = f"captum_face {release}"
html_copy_source = False

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "substitution"]
myst_heading_anchors = 3

autodoc_inherit_docstrings = False  # torch's own texts on forward() and extra_repr() say nothing here
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_custom_sections = ["Cost", "Shape"]
napoleon_use_ivar = True

# Every reference must resolve, but for those to other projects (no network at build, so no intersphinx).
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(torch|nn|captum|matplotlib|numpy|PIL|pathlib|collections|typing|inspect|types)\..*"),
    ("py:.*", r"T|Tensor|Module|Path|Pixels|Side|BatchSize|Baselines|.*\.weights\.Model"),
    ("py:.*", r"zennit\..*|Composite|Canonizer"),
    (
        "py:(meth|attr)",
        r"attribute|PairAttribution\.attribute|PairSimilarity\.against|OnnxEmbedding\.fixed_batch",
    ),
]

plot_working_directory = str(HERE / "figures")  # where scripts find common.py
plot_formats = [("png", 140)]
plot_html_show_formats = False
plot_html_show_source_link = False
# Every script starts from a fresh pyplot with its own defaults.
plot_apply_rcparams = True
plot_rcparams = {"figure.dpi": 140, "savefig.bbox": None}
