"""Patches of another person in a face: where the map should look, and whether it knows what each one did."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from captum_face._validation import (
    require_choice,
    require_generator,
    require_images,
    require_pair,
    require_positive_int,
)
from captum_face.engines.masks import masked_scores, random_patches, sliding_windows
from captum_face.maps.ranks import spearman
from captum_face.metrics._replacing import side_map
from captum_face.pair.passes import BatchSize
from captum_face.pair.similarity import PairSimilarity

__all__ = ["PatchEffect", "Patched", "paste_patches", "patch_effect"]


class Patched(NamedTuple):
    """Images with patches of other people."""

    images: Tensor  #: ``(N, C, H, W)``
    masks: Tensor  #: ``(N, H, W)`` bool, True where any patch lies
    patches: Tensor  #: ``(N, n, H, W)`` bool, each patch on its own
    region: tuple[slice, slice]  #: rows and columns among which patches were drawn; elsewhere there is none


class PatchEffect(NamedTuple):
    """What each patch did to the score, and what the map says about it."""

    correlation: Tensor  #: ``(N,)`` in [-1, 1]: rank correlation of gains and masses, higher is better
    gains: Tensor  #: ``(N, n)``: the score when this patch alone is restored, minus the patched score
    masses: Tensor  #: ``(N, n)``: the map's evidence against a match in the patch


def paste_patches(
    images: Tensor,
    cohort: Tensor,
    *,
    n_patches: int = 27,
    patch_size: int = 16,
    layout: str = "random",
    central: float = 1.0,
    seed: int = 0,
) -> Patched:
    """Images in which square patches show another person at the same place.

    The defaults are those of Patch-LFW, 27 random patches of 16 x 16 pixels (Huber et al., WACV 2024,
    arXiv 2304.13409); there on aligned crops of 112 x 112 pixels, which is what makes "the same place"
    mean the same part of the face.

    Args:
        images: ``(N, C, H, W)`` in [0, 1].
        cohort: ``(N, C, H, W)`` or ``(1, C, H, W)``, aligned faces of other people.
        n_patches: Patches in each image.
        patch_size: Side of a patch in pixels.
        layout: ``"random"``: anywhere, and patches may overlap; ``"grid"``: different cells of a raster of
            patches in the middle of the image, without overlap.
        central: Patches lie fully in the central part of the image, of this share of each side. 0.75 of
            112 pixels is where an aligned face is, and leaves 5 x 5 cells of 16 pixels.
        seed: Decides the places. Each image has its own, drawn one after the other: the first k images
            get the same places in any batch.

    Raises:
        TypeError: images that are not floats.
        ValueError: bad images, sizes that do not match, patches larger than the region, more patches
            than cells, or a ``central`` outside (0, 1].

    Example::

        >>> patched = paste_patches(torch.zeros(2, 3, 32, 32), torch.ones(1, 3, 32, 32), n_patches=3,
        ...                         patch_size=8, layout="grid")
        >>> patched.patches.shape, patched.masks.sum((1, 2)), float(patched.images.mean())
        (torch.Size([2, 3, 32, 32]), tensor([192, 192]), 0.1875)
    """
    require_images(images)
    require_images(cohort, "cohort")
    require_choice(layout, ("random", "grid"), "layout")
    require_positive_int(n_patches, "n_patches")
    require_positive_int(patch_size, "patch_size")
    if cohort.shape[1:] != images.shape[1:] or len(cohort) not in (1, len(images)):
        raise ValueError(
            f"expected cohort of shape {tuple(images.shape)} or one image of that size, got "
            f"{tuple(cohort.shape)}"
        )
    if not 0 < central <= 1:
        raise ValueError(f"expected central as a share of the side in (0, 1], got {central!r}")
    height, width = images.shape[-2:]
    region = (round(central * height), round(central * width))
    if patch_size > min(region):
        raise ValueError(
            f"expected patches inside the region of {region[0]}x{region[1]} pixels, got {patch_size=}"
        )
    generator = require_generator(seed, None)
    drawn = torch.stack([_draw(layout, n_patches, patch_size, region, generator) for _ in images])
    top, left = (height - region[0]) // 2, (width - region[1]) // 2
    patches = F.pad(drawn, (left, width - region[1] - left, top, height - region[0] - top))
    patches = patches.to(images.device)
    masks = patches.any(1)
    rows, columns = (
        slice(start + spare // 2, start + length - (spare - spare // 2))
        for start, length in ((top, region[0]), (left, region[1]))
        for spare in (length % patch_size if layout == "grid" else 0,)
    )
    return Patched(torch.where(masks[:, None], cohort.to(images), images), masks, patches, (rows, columns))


def _draw(
    layout: str, n_patches: int, side: int, region: tuple[int, int], generator: torch.Generator | None
) -> Tensor:
    """Patches ``(n, h, w)`` of one image, in its central region."""
    if layout == "random":
        return ~random_patches(n_patches, region, n_patches=1, patch_size=side, generator=generator)
    rows, columns = (length // side for length in region)
    if n_patches > rows * columns:
        raise ValueError(
            f"expected at most {rows * columns} patches, the cells of {side} pixels in the region of "
            f"{region[0]}x{region[1]}, got n_patches={n_patches}"
        )
    cells = ~sliding_windows((rows * side, columns * side), (side, side), (side, side))
    chosen = cells[torch.randperm(len(cells), generator=generator)[:n_patches]]
    down, right = region[0] - rows * side, region[1] - columns * side
    return F.pad(chosen, (right // 2, right - right // 2, down // 2, down - down // 2))


def patch_effect(
    pair: PairSimilarity,
    inputs: tuple[Tensor, Tensor],
    attributions: tuple[Tensor | None, Tensor | None],
    patched: Patched,
    originals: Tensor,
    *,
    side: str = "b",
    mass: str = "signed",
    perturbations_per_eval: BatchSize = None,
) -> PatchEffect:
    """Does the map know what each patch did to the score?

    Each patch alone gets its original pixels back, and the score gained is compared with the map's
    evidence in the patch, by rank. Where the patches are, which a map may find by their edges, does not
    help here: only which of them matter.

    Args:
        pair: The model; it runs in eval mode and is left as it was.
        inputs: ``(image_a, image_b)`` that were explained, the patched images on one side.
        attributions: ``(attr_a, attr_b)`` of ``inputs``; None for the image that is not patched.
        patched: From :func:`paste_patches`, at least 2 patches. In overlapping ones a pixel comes back
            with each of them; ``layout="grid"`` avoids that.
        originals: ``(N, C, H, W)``, the images before patching.
        side: Which of the inputs is patched, ``"a"`` or ``"b"``.
        mass: ``"signed"``: the sum of -S in the patch, which is what a map that adds up to the score
            predicts to be regained. ``"dissimilar"``: the sum of max(-S, 0), the dissimilarity map. The
            latter forgets the order of patches in which nothing speaks against a match, as happens to
            maps that depend on the threshold, and counts noise of both signs as evidence.
        perturbations_per_eval: Images in one forward pass; None for what suits the device, ``"auto"`` for
            what is measured to be cheapest.

    Returns:
        :class:`PatchEffect` in float64 on the CPU. The correlation is Spearman's with mean ranks for ties,
        and 0 where gains (up to single precision) or masses are all equal, as random gives on average.
        With n patches the standard deviation of a random map's is ``1 / sqrt(n - 1)``: average over pairs.

    Cost: ``n + 2`` forward passes a pair.

    Raises:
        TypeError, ValueError: bad images or attributions, shapes that do not match, images of ``side``
            that are not the patched ones, fewer than 2 patches.
    """
    require_choice(side, ("a", "b"), "side")
    require_choice(mass, ("signed", "dissimilar"), "mass")
    swapped = side == "b"
    image_a, image_b = require_pair(inputs)
    own, partners = (image_b, image_a) if swapped else (image_a, image_b)
    if own.shape != patched.images.shape or not torch.equal(own, patched.images.to(own)):
        raise ValueError(
            f"expected the patched images {tuple(patched.images.shape)} as image_{side} of inputs, got "
            f"other images {tuple(own.shape)}"
        )
    require_images(originals, "originals")
    if originals.shape != own.shape:
        raise ValueError(f"expected originals of shape {tuple(own.shape)}, got {tuple(originals.shape)}")
    n = patched.patches.shape[1]
    if n < 2:
        raise ValueError("expected at least 2 patches to rank, got 1")
    evidence, patches = -side_map(attributions, swapped, own), patched.patches.cpu()
    if mass == "dissimilar":
        evidence = evidence.clamp(min=0)
    masses = (evidence[:, None] * patches).sum((2, 3))
    # The first "mask" hides nothing, each other one shows the original in one patch.
    kept = torch.cat([torch.ones_like(patches[:, :1]), ~patches], dim=1)
    with pair.frozen():
        scores = torch.cat(
            [
                masked_scores(
                    pair,
                    own[i : i + 1],
                    partners[i : i + 1] if len(partners) > 1 else partners,
                    kept[i].to(own.device),
                    swapped=swapped,
                    baseline=originals[i : i + 1].to(own),
                    perturbations_per_eval=perturbations_per_eval,
                )
                for i in range(len(own))
            ]
        )
    gains = scores[:, 1:] - scores[:, :1]
    varies = gains.amax(1) - gains.amin(1) > 1e-6 * scores.abs().amax(1)
    return PatchEffect(spearman(gains, masses) * varies, gains, masses)
