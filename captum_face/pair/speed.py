"""A pair wrapper that answers the same in less time, for methods that pass many images.

On a CPU face networks run faster with BatchNorm folded into the convolution before it, with images whose
channels lie next to each other in memory, and with a PReLU that goes back for its input alone.
:func:`accelerated` makes such a twin of a model, compares its embedding of the very image with the model's
own, and answers with the original where they differ or where there is nothing to gain. The model itself is
never changed. :func:`images_per_pass` says how many images go through it at once, measured if the caller asks
for it. :func:`plan` says what was chosen.
"""

from __future__ import annotations

import copy
import weakref
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from captum_face._validation import not_differentiable, require_images
from captum_face.pair._state import HOOKS, uncompiled
from captum_face.pair.passes import BatchSize, cheapest_batch_size, default_batch_size, digest
from captum_face.pair.similarity import PairSimilarity

__all__ = [
    "Plan",
    "accelerated",
    "differentiable_embeddings",
    "embedding_of_copy",
    "images_per_pass",
    "observed",
    "plan",
]

# How far the twin's embedding may lie from the model's, relative to its length.
_TOLERANCE = 1e-5
# Images whose embeddings by its twin are remembered for a model.
_REMEMBERED = 1024


@dataclass(frozen=True)
class Plan:
    """How a method runs a model, see :func:`plan`."""

    folded: int  #: BatchNorm layers folded into the convolution before them
    channels_last: bool  #: whether images go in with the channels of a pixel next to each other
    images_per_pass: int  #: images, or embedding channels, in one pass where the caller does not say
    reason: str  #: in words
    forward_images: int | None = None  #: images in a forward pass, as ``"auto"`` measured; None: not yet
    backward_channels: int | None = None  #: channels in a backward pass, likewise


class _Twin(nn.Module):
    """A model's copy with folded BatchNorm, which takes images in the layout that suits it."""

    def __init__(self, model: nn.Module, folded: int, channels_last: bool) -> None:
        super().__init__()
        self.model, self.folded, self.channels_last = model, folded, channels_last

    def forward(self, images: Tensor) -> Tensor:
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return self.model(images.contiguous(memory_format=layout))


class _Bent(torch.autograd.Function):
    """PReLU that notes its slopes on the way there, so that the way back is one product.

    PyTorch's also works out what each slope's gradient is, as many values as there are in the images, whether
    anybody asks for it or not.
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor) -> Tensor:
        bent = functional.prelu(images, weight)
        # -1 up to 0, and 1 above it; so its PReLU is minus the slope or 1, exactly.
        sides = torch.sign(images.to(bent.dtype)).sub_(0.5).sign_()
        ctx.save_for_backward(functional.prelu(sides, weight).mul_(sides))
        ctx.dtype = images.dtype
        ctx.set_materialize_grads(False)  # a layer without gradients stays one
        return bent

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None) -> tuple[Tensor | None, None]:
        (slopes,) = ctx.saved_tensors
        return None if gradient is None else (gradient * slopes).to(ctx.dtype), None


class _QuickPReLU(nn.Module):
    """A PReLU layer of which only the gradient for its input is wanted."""

    def __init__(self, layer: nn.PReLU) -> None:
        super().__init__()
        self.weight = layer.weight

    def forward(self, images: Tensor) -> Tensor:
        if torch.is_grad_enabled() and images.requires_grad:
            return _Bent.apply(images, self.weight)
        return functional.prelu(images, self.weight)


@dataclass
class _Known:
    """What is known of a model with one set of weights."""

    version: list[object]  #: of the weights
    followers: list[tuple[str, str]]  #: its convolutions that a BatchNorm follows, and that
    twin: _Twin | None = None  #: shares what it need not change with the model
    #: The model's embedding of an image and that of its twin, None where they differ.
    answers: dict[Hashable, tuple[Tensor, Tensor | None]] = field(default_factory=dict)


# It goes when the model goes.
_KNOWN: weakref.WeakKeyDictionary[nn.Module, _Known] = weakref.WeakKeyDictionary()
# What was measured, by what it depends on; it goes with the model likewise.
_MEASURED: weakref.WeakKeyDictionary[nn.Module, dict[Hashable, int]] = weakref.WeakKeyDictionary()


def accelerated(
    pair: PairSimilarity, image: Tensor, embedding: Callable[[], Tensor] | None = None
) -> PairSimilarity:
    """A wrapper that gives the embeddings of ``pair`` faster, or ``pair`` itself.

    Call it inside ``pair.frozen()``: it stands for the model as it is then. Whether the embeddings are the
    same is looked at in float32, whatever the precision. The copy embeds an image once for a set of weights.

    Args:
        pair: The pair wrapper.
        image: One image ``(1, C, H, W)`` of those that will pass.
        embedding: Gives the model's own embedding of it ``(1, D)`` in float32; None to have it computed.

    Cost: a forward pass of the model without ``embedding``, and one of the copy for an image that is new to
    it; a few more when a model is seen for the first time or its weights have changed. None where there is
    nothing to gain.
    """
    found = _compared(pair, image, embedding)
    return pair if found is None else pair.variant(embedding_model=found[0])


def embedding_of_copy(pair: PairSimilarity, image: Tensor, embedding: Callable[[], Tensor]) -> Tensor:
    """What the accelerated copy gives for one image, or the model where there is none; in float32.

    Scores of changed images compare them with an intact one that passed the same layers.

    Args:
        pair: The pair wrapper.
        image: One image ``(1, C, H, W)``.
        embedding: Gives the model's own embedding of it ``(1, D)``.

    Cost: as :func:`accelerated`; the comparison gives the embedding too.
    """
    found = _compared(pair, image, embedding)
    return embedding() if found is None else found[1]


def _compared(
    pair: PairSimilarity, image: Tensor, embedding: Callable[[], Tensor] | None
) -> tuple[_Twin, Tensor] | None:
    """The copy with what it gives for an image, if that is the model's embedding."""
    model = pair.embedding_model
    if isinstance(model, _Twin) or _obstacle(pair, image) is not None:
        return None
    assert isinstance(model, nn.Module)
    exact = pair.in_float32()
    with torch.inference_mode(False), torch.no_grad():
        image = image.detach().clone()
        with observed(exact):
            expected = exact.embed(image) if embedding is None else embedding()
        known = _KNOWN.get(model)
        if known is None or known.version != _version(model):  # the embedding was there before
            with observed(exact):
                exact.embed(image)
            known = _KNOWN[model]
        # By identity, as what a wrapper does around the model may not be hashable, and must not be kept
        # alive.
        key = digest(image), image.device, id(exact.preprocess), id(exact.select)
        # What changed behind the back of the version may not show in this image, or in this image alone.
        if key not in known.answers or not _alike(known.answers[key][0], expected):
            found = _matching(exact, known, model, image, expected)
            if found is not None and found[0] is not known.twin:
                known.answers.clear()
                known.twin = found[0]
            known.answers[key] = expected, None if found is None else found[1]
            if len(known.answers) > _REMEMBERED:
                del known.answers[next(iter(known.answers))]
        answer = known.answers[key][1]
    return None if answer is None or known.twin is None else (known.twin, answer)


def _matching(
    exact: PairSimilarity, known: _Known, model: nn.Module, image: Tensor, expected: Tensor
) -> tuple[_Twin, Tensor] | None:
    """A twin that gives the expected embedding, the known one first, with what it gives."""
    current = [known.twin] if known.twin is not None else []
    for twin in chain(current, _candidates(model, known.followers)):
        try:
            got = exact.variant(embedding_model=twin).embed(image)
        except Exception:  # whatever it is that this network does not take
            continue
        if _alike(got, expected):
            return twin, got
    return None


def _alike(got: Tensor, expected: Tensor) -> bool:
    if got.shape != expected.shape or got.dtype != expected.dtype:
        return False
    return bool((got - expected).norm() <= _TOLERANCE * expected.norm())


def images_per_pass(
    size: BatchSize, pair: Callable[..., Tensor], image: Tensor, *, backward: bool = False
) -> int:
    """How many images go through a model at once, for what a caller gave.

    Args:
        size: A number, which is the answer; None for the rule of the device; or ``"auto"`` for what is
            measured to cost least on this model, device, precision and size of images, when it is first
            asked for. What was measured is kept as long as the model lives. A service is not measured: a
            request takes as many as it says.
        pair: The pair wrapper from :func:`accelerated`, inside ``pair.frozen()``. Of any other callable
            nothing is measured: it has its own partner each time, and nothing would stay.
        image: One image ``(1, C, H, W)`` of those that will pass.
        backward: Of a backward pass for the image alone instead of a forward pass.

    Cost: none, but for the first ``"auto"`` two passes of each size that is tried.
    """
    if isinstance(size, int):
        return size
    if not isinstance(pair, PairSimilarity):
        return default_batch_size(image.device, service=_per_request(pair))
    service = _per_request(pair.embedding_model)
    if size is None or service is not None:
        return default_batch_size(image.device, pair.precision, service)
    known = _MEASURED.setdefault(_owner(pair), {})
    key = _key(pair, image, backward)
    if key not in known:
        known[key] = cheapest_batch_size(
            _pass(pair, image, backward), image.device, default_batch_size(image.device, pair.precision)
        )
    return known[key]


def _per_request(model: object) -> int | None:
    """Images in one request, if the model is a service."""
    return getattr(model, "images_per_request", None)


def _owner(pair: PairSimilarity) -> nn.Module:
    """What measurements belong to: the model where it is a module, or else its wrapper."""
    return pair.embedding_model if isinstance(pair.embedding_model, nn.Module) else pair


def _key(pair: PairSimilarity, image: Tensor, backward: bool) -> Hashable:
    limits = pair.precision, pair.max_batch_size, torch.get_num_threads()
    return image.device, image.dtype, tuple(image.shape[1:]), limits, backward


def _pass(pair: PairSimilarity, image: Tensor, backward: bool) -> Callable[[int], object]:
    """One pass of so many images; the graph that a backward pass goes through is made at its first one."""
    graphs: dict[int, tuple[Tensor, Tensor]] = {}

    def run(size: int) -> None:
        with torch.inference_mode(False), torch.set_grad_enabled(backward):
            if not backward:
                pair.embed(image.detach().expand(size, -1, -1, -1))
                return
            if size not in graphs:
                graphs.clear()
                leaf = image.detach().repeat(size, 1, 1, 1).requires_grad_()
                graphs[size] = leaf, differentiable_embeddings(pair, leaf)
            leaf, embeddings = graphs[size]
            torch.autograd.grad(embeddings.sum(), leaf, retain_graph=True)

    return run


def differentiable_embeddings(pair: PairSimilarity, images: Tensor) -> Tensor:
    """Embeddings with a graph that can be gone back through more than once.

    Raises:
        TypeError: the model has no gradient for the images.
    """
    try:
        with uncompiled():
            embeddings = pair.embed(images)
    except RuntimeError as error:
        if "numpy()" in str(error):
            raise not_differentiable() from error
        raise
    if not embeddings.requires_grad:
        raise not_differentiable()
    return embeddings


def plan(pair: PairSimilarity, images: Tensor, *, measure: bool = False) -> Plan:
    """What the methods choose for a model and images, in figures and in words.

    Args:
        pair: The pair wrapper.
        images: ``(N, C, H, W)``, as they will be explained; the first one is looked at.
        measure: Measure now what ``internal_batch_size="auto"`` and ``perturbations_per_eval="auto"``
            will take.

    Example::

        >>> layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 5)
        >>> pair = PairSimilarity(nn.Sequential(*layers).eval())
        >>> plan(pair, torch.rand(1, 3, 8, 8)).folded
        1
    """
    image = require_images(images)[:1]
    with pair.frozen(), torch.no_grad():
        obstacle = _obstacle(pair, image)
        quick = accelerated(pair, image)
        if measure:
            images_per_pass("auto", quick, image)
            with suppress(TypeError):  # of a model without gradients there is nothing to measure
                images_per_pass("auto", quick, image, backward=True)
    known = _MEASURED.get(_owner(quick), {})
    measured = [known.get(_key(quick, image, backward)) for backward in (False, True)]
    size, twin = default_batch_size(image.device, pair.precision), quick.embedding_model
    if not isinstance(twin, _Twin):
        reason = obstacle or "no faster twin gives the embeddings of the model"
        return Plan(0, False, size, reason, *measured)
    layout = "channels last" if twin.channels_last else "contiguous images"
    reason = f"{twin.folded} BatchNorm layers folded, {layout}"
    quick_layers = sum(isinstance(layer, _QuickPReLU) for layer in twin.modules())
    if quick_layers:
        reason += f", {quick_layers} PReLU layers with a shorter way back"
    return Plan(twin.folded, twin.channels_last, size, reason, *measured)


def _obstacle(pair: PairSimilarity, image: Tensor) -> str | None:
    """Why a model is run as it is, or None."""
    model = pair.embedding_model
    if image.device.type != "cpu":
        return "only measured to pay on a CPU"
    if not isinstance(model, nn.Module) or isinstance(model, torch.jit.ScriptModule):
        return "the layers of the model cannot be seen"
    modules = [*model.modules()]
    if any(hasattr(m, "_orig_mod") for m in modules):
        return "the model is compiled"
    if not any(isinstance(m, nn.Conv2d) for m in modules):
        return "no convolution"
    # A twin would not call them, or call them at other layers.
    if any(getattr(m, hooks, None) for m in modules for hooks in HOOKS):
        return "the model has hooks"
    if any(m.training for m in modules):
        return "the model is in training mode"
    return None


@contextmanager
def observed(pair: PairSimilarity) -> Iterator[None]:
    """Sees which convolutions a BatchNorm follows, as images pass the model inside, if that is not known yet.

    It spares :func:`accelerated` a pass of its own.
    """
    model = pair.embedding_model
    current = _KNOWN.get(model) if isinstance(model, nn.Module) else None
    example = next((p for p in pair.parameters()), torch.empty(0))
    known = current is not None and isinstance(model, nn.Module) and current.version == _version(model)
    if known or not isinstance(model, nn.Module) or isinstance(model, _Twin) or _obstacle(pair, example):
        yield
        return
    last: list[tuple[str, Tensor]] = []
    called: Counter[str] = Counter()
    followers: list[tuple[str, str]] = []
    handles = []
    for name, layer in model.named_modules():
        if type(layer) is nn.Conv2d:

            def note(_: nn.Module, args: object, out: Tensor, name: str = name) -> None:
                called[name] += 1
                last[:] = [(name, out)]

            handles.append(layer.register_forward_hook(note))
        elif type(layer) is nn.BatchNorm2d and layer.running_mean is not None:

            def look(_: nn.Module, args: tuple[Tensor, ...], name: str = name) -> None:
                followers.extend((before, name) for before, out in last if out is args[0])

            handles.append(layer.register_forward_pre_hook(look))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    passes = next(iter(called.values()), 0)
    # A layer that is used twice in a pass has no single neighbour.
    pairs = [pair for pair in dict.fromkeys(followers) if called[pair[0]] == passes]
    _KNOWN[model] = _Known(_version(model), pairs)


def _version(model: nn.Module) -> list[object]:
    """What changes with the weights of a model, but for what is written through ``.data``."""
    tensors = (*model.parameters(), *model.buffers())
    return [(t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors]


def _candidates(model: nn.Module, followers: list[tuple[str, str]]) -> Iterator[_Twin]:
    """Twins of a model, the fastest first; each is made when it is asked for."""
    for pairs in (followers, []) if followers else ([],):
        try:
            # Tensors are shared with the model; folded convolutions get weights of their own.
            shared = {id(t): t for t in (*model.parameters(), *model.buffers())}
            folded = copy.deepcopy(model, shared)
            for before, name in pairs:
                convolution, norm = folded.get_submodule(before), folded.get_submodule(name)
                assert isinstance(convolution, nn.Conv2d)
                assert isinstance(norm, nn.BatchNorm2d)
                _replace(folded, before, fuse_conv_bn_eval(convolution, norm).requires_grad_(False))
                _replace(folded, name, nn.Identity().eval())
            for name, layer in [*folded.named_modules()]:
                if type(layer) is nn.PReLU:
                    _replace(folded, name, _QuickPReLU(layer).eval())
        except Exception:  # whatever it is that cannot be copied
            continue
        yield _Twin(folded, len(pairs), True).eval()
        # Networks that flatten by .view take no other layout than the usual one.
        if pairs:
            yield _Twin(folded, len(pairs), False).eval()


def _replace(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, layer)
