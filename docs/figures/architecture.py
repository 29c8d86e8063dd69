"""The rooms of the package, and which imports which: drawn from its code."""

import math
from itertools import count

from common import show
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from rooms import read_rooms, room_imports

GROUND = "#eeeeee"
COLOURS = {
    **dict.fromkeys(("maps", "data", "pair", "models"), "#dbe9f6"),
    **dict.fromkeys(("engines", "lrp", "decoder"), "#cfe8d5"),
    "attr": "#fde3c8",
    **dict.fromkeys(("figures", "results"), "#f6d9e6"),
    **dict.fromkeys(("metrics", "benchmark", "testing"), "#e4dcf1"),
    "cli": "#f9efb4",
}


def box(y: float, colour: str) -> FancyBboxPatch:
    """A room's box at a height."""
    return FancyBboxPatch((0, y - 0.3), 1.55, 0.6, boxstyle="round,pad=0.02", fc=colour, ec="#666666")


def draw() -> Figure:
    """Each room a box, the lowest at the bottom; an arc leads from a room to one that it imports."""
    holds = read_rooms()
    rooms = [name for name in holds if not name.startswith("_")]
    places = dict(zip(rooms, count()))
    figure = Figure(figsize=(8.4, 7.4), layout="constrained")
    axis = figure.subplots()
    for name, y in places.items():
        axis.add_patch(box(y, COLOURS.get(name, GROUND)))
        axis.text(0.78, y, name, ha="center", va="center", fontsize=10, fontweight="bold")
        axis.text(1.75, y, holds[name].split(":")[-1].strip(), va="center", fontsize=8.5, color="#333333")
    axis.add_patch(box(-1, GROUND))
    axis.text(0.78, -1, "the ground", ha="center", va="center", fontsize=10)
    ground = ", ".join(name for name in holds if name.startswith("_"))
    axis.text(1.75, -1, f"{ground}: used by all", va="center", fontsize=8.5, color="#333333")
    for (above, below), n in room_imports().items():
        if above in places and below in places:
            arc = FancyArrowPatch(
                (-0.03, places[above]),
                (-0.03, places[below]),
                connectionstyle=f"arc3,rad={0.35 + 0.02 * (places[above] - places[below])}",
                arrowstyle="-|>",
                mutation_scale=7,
                lw=0.5 + 0.45 * math.log2(1 + n),
                color="#4477aa",
                alpha=0.55,
            )
            axis.add_patch(arc)
    axis.set(xlim=(-4.2, 6.2), ylim=(-1.6, len(rooms) - 0.3))
    axis.set_axis_off()
    return figure


show(draw())
