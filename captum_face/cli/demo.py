"""``captum-face demo``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from captum_face.cli._options import ending_option, on_terminal, ready, require_figure_path, running_options
from captum_face.data import synthetic
from captum_face.figures import show_comparison
from captum_face.figures.comparison import compared
from captum_face.models import load_pair
from captum_face.pair.embedding import device_of
from captum_face.results._saving import save_figure
from captum_face.results.explanation import explain

__all__ = ["DEMO_PARTS", "demo"]

#: What the demo changes unless told otherwise; the figures of the documentation show the same pair.
DEMO_PARTS = ("brows", "eyes", "mouth")


@click.command()
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default="captum_face_demo.png",
    show_default=True,
    help="The figure to write.",
)
@click.option(
    "--changed",
    multiple=True,
    default=DEMO_PARTS,
    show_default=True,
    help="A part to take from another face; repeatable.",
)
@click.option(
    "--seed",
    default=0,
    show_default=True,
    help="Seed of the synthetic faces, and of the methods that draw random numbers.",
)
@ending_option
@running_options
def demo(output: Path, changed: tuple[str, ...], seed: int, figure_format: str | None) -> None:
    """Explain a synthetic pair whose changed parts are known.

    The two pictures show one face, of which some parts were taken from another in the second. A
    dissimilarity map that finds them has a larger share inside them than they have of the area. Other
    seeds and parts show how often that is so.
    """
    started = time.perf_counter()
    if figure_format is not None:
        output = output.with_suffix(f".{figure_format}")
    require_figure_path(output)
    faces = synthetic.pair(seed, changed=changed)
    pair = ready(load_pair("synthetic"))
    image_a, image_b = (image.to(device_of(pair)) for image in (faces.image_a, faces.image_b))
    masks = (faces.mask_a, faces.mask_b)
    seeded: dict[str, Any] = {"seed": seed}
    explanations = [
        explain(pair, image_a, image_b, method=method, show_progress=on_terminal(), **options)
        for method, options in (
            ("fggb", {}),
            ("corrrise", seeded),
            ("morph_gradients", seeded),
            ("reconstruction", {}),
        )
    ]
    save_figure(show_comparison(explanations, masks=masks), output)
    click.echo(f"One synthetic face twice; of the second, {', '.join(changed)} are from another face.")
    click.echo(explanations[0].verdict.capitalize())
    click.echo(f"\n{'share inside the changed parts':38}{'image A':>9}{'image B':>9}")
    _row("of the area", [float(mask.float().mean()) for mask in masks])
    for explanation in explanations:
        _row(f"of {explanation.method}'s dissimilarity map", explanation.dissimilar_shares(masks))
    click.echo(f"\n{str(compared(explanations)).capitalize()}")
    click.echo(f"\nFigure: {output}  ({time.perf_counter() - started:.0f} s)")


def _row(label: str, shares: Sequence[float]) -> None:
    click.echo(f"{label:38}" + "".join(f"{share:9.1%}" for share in shares))
