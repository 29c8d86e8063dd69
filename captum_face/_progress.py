"""The progress bar; in a notebook it stands among the results and not among the errors."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import Any

from tqdm import tqdm

__all__ = ["progress_bar"]


def progress_bar(**options: Any) -> tqdm:
    """A bar of tqdm for where it runs: a widget where a notebook has widgets, else text.

    A notebook shows what is written to standard error on red ground, so text goes to standard output there.

    Args:
        options: Those of :class:`tqdm.tqdm`.
    """
    if options.get("disable") or not _in_notebook():
        return tqdm(**options)
    if find_spec("ipywidgets") is not None:
        from tqdm.notebook import tqdm as widget  # warns where there are no widgets

        return widget(**options)
    return tqdm(file=sys.stdout, **options)


def _in_notebook() -> bool:
    """Whether a Jupyter kernel runs this process."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return getattr(shell, "kernel", None) is not None
