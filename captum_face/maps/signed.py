"""What is done to finished attributions: splitting by sign, smoothing."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["pixel_map", "smooth", "split_attribution"]


def pixel_map(attr: Tensor) -> Tensor:
    """One signed value per pixel: the mean over colour channels.

    For methods that repeat a pixel's value over the channels this is that value.

    Args:
        attr: ``(N, C, H, W)``, or ``(N, H, W)``, which passes.

    Returns:
        ``(N, H, W)``.

    Raises:
        ValueError: another number of dimensions, NaN or infinite values.
    """
    _require_attribution(attr)
    if not torch.isfinite(attr).all():
        raise ValueError("expected finite attributions, got NaN or infinite values")
    return attr.mean(1) if attr.ndim == 4 else attr


def split_attribution(attr: Tensor) -> tuple[Tensor, Tensor]:
    """The similarity and the dissimilarity map of a signed attribution.

    Args:
        attr: ``(N, C, H, W)`` or ``(N, H, W)``, positive = speaks for the same person.

    Returns:
        ``(similar, dissimilar)``, each ``(N, H, W)`` and non-negative: ``max(S, 0)`` and ``max(-S, 0)`` of
        the mean S over colour, so that ``similar - dissimilar`` is S.

    Raises:
        ValueError: another number of dimensions, NaN or infinite values.

    Example::

        >>> split_attribution(torch.tensor([[[2.0, -1.0]]]))
        (tensor([[[2., 0.]]]), tensor([[[0., 1.]]]))
    """
    signed = pixel_map(attr)
    return signed.clamp(min=0), signed.clamp(max=0).abs()  # abs: zeros without a sign


def smooth(attr: Tensor, sigma: float, kernel_size: int | None = None, *, keep_sum: bool = False) -> Tensor:
    """Gaussian blur of attributions, channel by channel, mirrored at the borders.

    FGGB's maps were published after ``smooth(attr, 5)`` on 112 x 112 crops (kernel 25).

    Args:
        attr: ``(N, C, H, W)`` or ``(N, H, W)``.
        sigma: Standard deviation in pixels; 0 changes nothing.
        kernel_size: Odd number of pixels; None for five sigma (25 for sigma 5).
        keep_sum: Instead of mirroring, each pixel's value is spread over the pixels around it that there are,
            so that a map that adds up to something still does.

    Returns:
        The same shape. The mean keeps its value up to what the borders mirror; exactly with ``keep_sum``.

    Raises:
        ValueError: negative sigma, an even or non-positive kernel, or a shape of other dimensions.
    """
    _require_attribution(attr)
    if not 0 <= sigma < float("inf"):
        raise ValueError(f"expected sigma of at least 0 pixels, got {sigma!r}")
    if sigma == 0:
        return attr
    if kernel_size is None:
        kernel_size = 2 * int(2.5 * sigma) + 1
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"expected kernel_size as an odd number of pixels, got {kernel_size!r}")
    blurred = attr.reshape(-1, 1, *attr.shape[-2:])
    for axis in (2, 3):
        # Mirroring reaches at most over the whole side.
        radius = min(kernel_size // 2, attr.shape[axis - 4] - 1)
        offsets = torch.arange(-radius, radius + 1, dtype=attr.dtype, device=attr.device)
        kernel = (-0.5 * (offsets / sigma).square()).exp()
        kernel = (kernel / kernel.sum()).reshape([1, 1, -1, 1] if axis == 2 else [1, 1, 1, -1])
        padding = [0, 0, radius, radius] if axis == 2 else [radius, radius, 0, 0]
        if keep_sum:
            inside = F.conv2d(F.pad(torch.ones_like(blurred[:1]), padding), kernel)
            blurred = F.conv2d(F.pad(blurred / inside, padding), kernel)
        else:
            blurred = F.conv2d(F.pad(blurred, padding, mode="reflect"), kernel)
    return blurred.reshape(attr.shape)


def _require_attribution(attr: object) -> None:
    if not isinstance(attr, Tensor):
        came = (
            f"{type(attr).__name__}; call this for each side"
            if isinstance(attr, (tuple, list))
            else repr(attr)
        )
        raise TypeError(f"expected the attribution of one side as a tensor, got {came}")
    if attr.ndim not in (3, 4):
        raise ValueError(f"expected attributions (N, C, H, W) or (N, H, W), got shape {tuple(attr.shape)}")
    if not attr.is_floating_point():
        raise TypeError(f"expected attributions of floats, got {attr.dtype}")
