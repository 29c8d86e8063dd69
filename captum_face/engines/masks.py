"""Occlusion masks, and the scores of masked images against a partner.

Every occlusion method is a statistic of ``scores (K, n_masks)`` against ``masks (n_masks, H, W)``. The
masked images are embedded once, whatever the number K of partners.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from captum_face._validation import require_choice, require_positive_int, require_scores
from captum_face.pair.passes import BatchSize, in_passes, require_batch_size
from captum_face.pair.similarity import PairSimilarity
from captum_face.pair.speed import accelerated, images_per_pass

__all__ = [
    "apply_masks",
    "feature_masks",
    "grid_labels",
    "mask_scorer",
    "masked_scores",
    "random_grids",
    "random_patches",
    "require_masks",
    "sliding_windows",
    "with_intact",
]

# How random_patches() can place them.
SAMPLINGS = ("plain", "stratified")


def random_patches(
    n_masks: int,
    size: tuple[int, int],
    *,
    n_patches: int = 3,
    patch_size: int | tuple[int, int] | None = None,
    sampling: str = "plain",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Masks that hide ``n_patches`` rectangles each, uniformly placed and fully inside the image.

    Args:
        n_masks: How many masks.
        size: ``(H, W)`` of the image.
        n_patches: Rectangles in each mask; they may overlap.
        patch_size: Side of the squares in pixels, or ``(height, width)``. None for 30/112 of each side,
            CorrRISE's 30 pixels on a 112 x 112 crop.
        sampling: ``"plain"``: every patch anywhere. ``"stratified"``: each mask likewise, but together they
            fill the space of all masks evenly, as the points of a scrambled Sobol sequence do; the first n of
            more masks are those that n would be.
        generator: Source of randomness; None for torch's global one.

    Returns:
        ``(n_masks, H, W)`` bool, True = kept, on the generator's device.

    Raises:
        ValueError: a count below 1, or patches larger than the image.

    Example::

        >>> masks = random_patches(4, (112, 112), generator=torch.Generator().manual_seed(0))
        >>> masks.shape, int((~masks[0]).sum()) <= 3 * 30 * 30
        (torch.Size([4, 112, 112]), True)
    """
    require_positive_int(n_masks, "n_masks")
    require_positive_int(n_patches, "n_patches")
    require_choice(sampling, SAMPLINGS, "sampling")
    if patch_size is None:
        patch = tuple(max(1, round(30 / 112 * side)) for side in size)
    else:
        patch = tuple(patch_size) if isinstance(patch_size, (tuple, list)) else (patch_size, patch_size)
        for side in patch:
            require_positive_int(side, "patch_size")
    if len(patch) != 2 or patch[0] > size[0] or patch[1] > size[1]:
        raise ValueError(
            f"expected patches inside the image of {size[0]}x{size[1]} pixels, got patch_size={patch_size!r}"
        )
    device = generator.device if generator is not None else None
    if sampling == "stratified":
        seed = int(torch.randint(2**31, (), generator=generator, device=device))
        sequence = torch.quasirandom.SobolEngine(2 * n_patches, scramble=True, seed=seed)
        places = sequence.draw(n_masks, dtype=torch.float32).reshape(n_masks, 2, n_patches, 1).to(device)
    hidden = []
    for axis, (side, length) in enumerate(zip(size, patch, strict=True)):
        free = side - length + 1
        if sampling == "stratified":
            start = (places[:, axis] * free).long().clamp(max=free - 1)
        else:
            start = torch.randint(free, (n_masks, n_patches, 1), generator=generator, device=device)
        position = torch.arange(side, device=device)
        hidden.append((position >= start) & (position < start + length))
    rows, columns = hidden
    # (n, H, patches) x (n, patches, W): a pixel is hidden when one patch holds both its row and its column.
    # In chunks: as floats all masks at once would take four times their memory.
    chunks = zip(rows.split(64), columns.split(64), strict=True)
    return torch.cat([torch.matmul(r.mT.float(), c.float()) == 0 for r, c in chunks])


def random_grids(
    n_masks: int,
    size: tuple[int, int],
    *,
    grid: int = 7,
    probability: float = 0.5,
    generator: torch.Generator | None = None,
) -> Tensor:
    """RISE's soft masks: coarse random grids, upsampled bilinearly and shifted at random.

    Each cell of ``grid + 1`` by ``grid + 1`` is kept with ``probability``. The grid is enlarged until
    ``grid`` cells span the image, and cropped to it at a random place within one cell (Petsiuk, Das and
    Saenko, BMVC 2018, arXiv 1806.07421, section 3.2).

    Args:
        n_masks: How many masks.
        size: ``(H, W)`` of the image.
        grid: Cells along each side of the image.
        probability: How likely a cell is kept.
        generator: Source of randomness; None for torch's global one.

    Returns:
        ``(n_masks, H, W)`` float in [0, 1], 1 = kept, on the generator's device.

    Raises:
        ValueError: a count below 1, more cells than pixels, a probability outside (0, 1).

    Example::

        >>> masks = random_grids(4, (112, 112), generator=torch.Generator().manual_seed(0))
        >>> masks.shape, bool(masks.min() >= 0), bool(masks.max() <= 1)
        (torch.Size([4, 112, 112]), True, True)
    """
    require_positive_int(n_masks, "n_masks")
    require_positive_int(grid, "grid")
    if grid > min(size):
        raise ValueError(f"expected at most one cell a pixel of {size[0]}x{size[1]} pixels, got grid={grid}")
    if not 0 < probability < 1:
        raise ValueError(f"expected probability between 0 and 1, got {probability!r}")
    device = generator.device if generator is not None else None
    cells = n_masks, 1, grid + 1, grid + 1
    kept = torch.rand(cells, generator=generator, device=device, dtype=torch.float32) < probability
    cell = [-(-side // grid) for side in size]
    enlarged = [(grid + 1) * length for length in cell]
    starts = torch.stack(
        [torch.randint(length, (n_masks,), generator=generator, device=device) for length in cell], dim=1
    ).tolist()
    masks = torch.empty(n_masks, *size, device=device, dtype=torch.float32)
    for mask, grid_kept, (top, left) in zip(masks, kept.float(), starts, strict=True):
        soft = F.interpolate(grid_kept[None], enlarged, mode="bilinear", align_corners=False)
        mask.copy_(soft[0, 0, top : top + size[0], left : left + size[1]])
    return masks


def sliding_windows(size: tuple[int, int], window: tuple[int, int], stride: tuple[int, int]) -> Tensor:
    """Masks that hide one rectangle each, at every place of a raster over the image.

    The last window of a row or column lies flush with the border, so that every pixel is hidden by some
    window and all windows have one size.

    Args:
        size: ``(H, W)`` of the image.
        window: ``(height, width)`` of the rectangle in pixels.
        stride: ``(down, right)`` steps in pixels.

    Returns:
        ``(n, H, W)`` bool, True = kept, row by row.

    Raises:
        ValueError: a window larger than the image, a stride below 1, or steps that leave gaps.

    Example::

        >>> sliding_windows((1, 6), (1, 3), (1, 2)).int()[:, 0]
        tensor([[0, 0, 0, 1, 1, 1],
                [1, 1, 0, 0, 0, 1],
                [1, 1, 1, 0, 0, 0]], dtype=torch.int32)
    """
    hidden = []
    for side, length, step in zip(size, window, stride, strict=True):
        require_positive_int(length, "the window's sides")
        require_positive_int(step, "stride")
        if length > side:
            raise ValueError(
                f"expected a window inside the image of {size[0]}x{size[1]} pixels, "
                f"got {window[0]}x{window[1]}"
            )
        if step > length:
            raise ValueError(f"expected strides of at most the window's sides {window}, got {stride}")
        starts = torch.tensor([*range(0, side - length, step), side - length])[:, None]
        position = torch.arange(side)
        hidden.append((position >= starts) & (position < starts + length))
    rows, columns = hidden
    return ~(rows[:, None, :, None] & columns[None, :, None, :]).flatten(0, 1)


def grid_labels(size: tuple[int, int], grid: int) -> Tensor:
    """A raster of ``grid`` by ``grid`` cells: the number of its cell for each pixel.

    Args:
        size: ``(H, W)`` of the image.
        grid: Cells along each side.

    Returns:
        ``(H, W)`` int64, from 0 to ``grid ** 2 - 1``, row by row.

    Raises:
        ValueError: a count below 1, or more cells than pixels.

    Example::

        >>> grid_labels((2, 4), 2)
        tensor([[0, 0, 1, 1],
                [2, 2, 3, 3]])
    """
    require_positive_int(grid, "grid")
    if grid > min(size):
        raise ValueError(f"expected at most one cell a pixel of {size[0]}x{size[1]} pixels, got grid={grid}")
    rows, columns = (torch.arange(side) * grid // side for side in size)
    return rows[:, None] * grid + columns


def feature_masks(feature_mask: object, size: tuple[int, int], *, default: Tensor | None) -> Tensor:
    """Features ``(F, H, W)`` bool: which pixels go together."""
    labels = feature_mask if feature_mask is not None else default
    if labels is None:
        labels = grid_labels(size, min(7, *size))
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.dtype == torch.bool:
        came = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(f"expected feature_mask as a tensor of integers (H, W), got {came}")
    if labels.numel() != size[0] * size[1] or labels.shape[-2:] != size:
        raise ValueError(
            f"expected feature_mask of shape ({size[0]}, {size[1]}), the size of the images, "
            f"got {tuple(labels.shape)}"
        )
    labels = labels.reshape(size).cpu()
    return torch.stack([labels == label for label in labels.unique()])


def with_intact(masks: Tensor) -> Tensor:
    """The mask that hides nothing before all others."""
    return torch.cat([torch.ones_like(masks[:1]), masks])


def require_masks(masks: object, size: tuple[int, int]) -> Tensor:
    """Returns masks of the caller's own as ``(n, H, W)``, bool if they are hard and float if they are soft.

    Args:
        masks: ``(n, H, W)`` or ``(n, 1, H, W)``, 1 = kept, 0 = hidden, anything between for soft masks.
        size: ``(H, W)`` of the image.

    Raises:
        TypeError: not a tensor.
        ValueError: another shape or size, fewer than 2 masks, values outside [0, 1].
    """
    if not isinstance(masks, Tensor):
        raise TypeError(f"expected masks as a torch.Tensor (n, H, W), got {type(masks).__name__}")
    shape = tuple(masks.shape)
    if masks.ndim == 4 and masks.shape[1] == 1:
        masks = masks[:, 0]
    if masks.ndim != 3 or tuple(masks.shape[1:]) != tuple(size) or len(masks) < 2:
        raise ValueError(
            f"expected at least 2 masks of shape (n, {size[0]}, {size[1]}) or (n, 1, {size[0]}, {size[1]}), "
            f"the size of the images, got {shape}"
        )
    if masks.dtype == torch.bool:
        return masks
    # `not (...)` also catches NaN.
    if not ((masks >= 0) & (masks <= 1)).all():
        raise ValueError("expected mask values in [0, 1], 1 = kept and 0 = hidden, got others")
    hard = masks.bool()
    return hard if bool((hard == masks).all()) else masks


def apply_masks(image: Tensor, masks: Tensor, baseline: float | Tensor = 0) -> Tensor:
    """``image * mask + baseline * (1 - mask)``.

    Args:
        image: ``(1, C, H, W)``.
        masks: ``(n, H, W)``, 1 = kept.
        baseline: What stands in hidden places: a number, a tensor that broadcasts with ``(1, C, H, W)``, or
            one image for each mask, ``(n, C, H, W)``.

    Returns:
        ``(n, C, H, W)`` on the device and in the dtype of ``image``.
    """
    kept = masks[:, None].to(image)
    masked = image * kept
    return masked if isinstance(baseline, (int, float)) and baseline == 0 else masked + baseline * (1 - kept)


def masked_scores(
    forward_func: Callable[[Tensor, Tensor], Tensor],
    image: Tensor,
    partners: Tensor,
    masks: Tensor,
    *,
    swapped: bool = False,
    baseline: float | Tensor = 0,
    perturbations_per_eval: BatchSize = None,
    progress: Callable[[int], object] | None = None,
) -> Tensor:
    """Scores of one image under every mask against each of K intact partners.

    Args:
        forward_func: A :class:`~captum_face.PairSimilarity`, or any callable ``(a, b) -> (N,)``.
        image: ``(1, C, H, W)``, the one to mask.
        partners: ``(K, C, H, W)``.
        masks: ``(n, H, W)``, 1 = kept.
        swapped: The masked image is the second argument of ``forward_func``.
        baseline: What stands in hidden places, see :func:`apply_masks`.
        perturbations_per_eval: Masked images in one forward pass; None for what suits the device, ``"auto"``
            for what is measured to be cheapest (with a :class:`~captum_face.PairSimilarity`). Half as many
            from where memory runs out.
        progress: Called after each pass with the number of masked images scored.

    Returns:
        ``(K, n)`` without gradients. In double precision whatever the model computes in: later
        statistics centre the scores, and single precision would round what is left.

    Cost: with a :class:`~captum_face.PairSimilarity` n + K forward passes of one image, the masked ones
    shared by all partners; with another callable K n calls' worth of pairs.

    Raises:
        ValueError: scores that are not one finite number per pair.
    """
    score = mask_scorer(
        forward_func,
        image,
        partners,
        swapped=swapped,
        baseline=baseline,
        perturbations_per_eval=perturbations_per_eval,
        progress=progress,
    )
    return score(masks)


def mask_scorer(
    forward_func: Callable[[Tensor, Tensor], Tensor],
    image: Tensor,
    partners: Tensor,
    *,
    swapped: bool = False,
    baseline: float | Tensor = 0,
    partner_embeddings: Tensor | None = None,
    accelerate: bool = True,
    perturbations_per_eval: BatchSize = None,
    progress: Callable[[int], object] | None = None,
) -> Callable[[Tensor], Tensor]:
    """:func:`masked_scores` as a function of the masks, for methods that ask for more of them as they go.

    The partners are embedded here, once, unless ``partner_embeddings`` ``(K, D)`` are known. ``accelerate``
    runs the accelerated copy of the model, see :func:`~captum_face.pair.speed.accelerated`.
    """
    require_batch_size(perturbations_per_eval, "perturbations_per_eval")
    if isinstance(forward_func, PairSimilarity):
        forward_func = accelerated(forward_func, image) if accelerate else forward_func
    size = images_per_pass(perturbations_per_eval, forward_func, image)
    with torch.no_grad():
        score_batch = _partner_scorer(forward_func, partners, partner_embeddings, swapped, size)

    def score(masks: Tensor) -> Tensor:
        def score_masked(rows: Tensor) -> Tensor:
            fill = baseline
            if isinstance(baseline, Tensor) and baseline.ndim == 4 and len(baseline) > 1:
                fill = baseline[rows.to(baseline.device)]
            return score_batch(apply_masks(image, masks[rows], fill)).cpu().double()

        rows = []
        with torch.no_grad():
            for scores in in_passes(score_masked, torch.arange(len(masks)), size):
                rows.append(scores)
                if progress is not None:
                    progress(scores.shape[1])
        return torch.cat(rows, dim=1)

    return score


def _partner_scorer(
    forward_func: Callable[[Tensor, Tensor], Tensor],
    partners: Tensor,
    known: Tensor | None,
    swapped: bool,
    size: int,
) -> Callable[[Tensor], Tensor]:
    """A function from masked images ``(m, C, H, W)`` to their scores ``(K, m)`` against all partners."""
    if isinstance(forward_func, PairSimilarity):
        pair = forward_func
        intact = (pair.embed_in_passes(partners, size) if known is None else known)[:, None]

        def score_embedded(masked: Tensor) -> Tensor:
            embeddings = pair.embed(masked)[None]
            sides = (intact, embeddings) if swapped else (embeddings, intact)
            return pair.contributions(*sides).sum(-1)

        return score_embedded

    def score_called(masked: Tensor) -> Tensor:
        rows = []
        for partner in partners:
            # Any other callable need not broadcast.
            sides = (masked, partner.expand_as(masked))
            answer = forward_func(*(reversed(sides) if swapped else sides))
            rows.append(require_scores(answer, len(masked), masked))
        return torch.stack(rows)

    return score_called
