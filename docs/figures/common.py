"""What the figure scripts share: the bundled model, a pair with known changes, and a way to show figures."""

from functools import cache

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from captum_face import METHODS, Explanation, PairSimilarity, explain
from captum_face.cli.demo import DEMO_PARTS, demo
from captum_face.data import synthetic
from captum_face.data.synthetic import SyntheticPair
from captum_face.models import load_pair

# Those of `captum-face demo`.
SEED = next(option.default for option in demo.params if option.name == "seed")
CHANGED = DEMO_PARTS


@cache
def model() -> PairSimilarity:
    """The bundled model with its threshold and preprocessing."""
    return load_pair("synthetic")


@cache
def faces() -> SyntheticPair:
    """One synthetic face twice, some parts of the second from another face."""
    return synthetic.pair(SEED, changed=CHANGED)


@cache
def explained(method: str) -> Explanation:
    """That pair explained; once, though several pages show it."""
    options = {"seed": SEED} if not METHODS[method].deterministic() else {}
    return explain(model(), faces().image_a, faces().image_b, method, **options)


def show(figure: Figure) -> None:
    """Hands a figure to the plot directive, which collects those that pyplot manages."""
    canvas = plt.figure().canvas
    figure.set_canvas(canvas)
    canvas.figure = figure
