"""What runs of a model hold and give back: training flags, hooks, locks, and switches of the process."""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Iterable, Iterator, MutableMapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import chain
from typing import Any

import torch
from torch import nn
from torch.utils.weak import WeakIdKeyDictionary

__all__ = [
    "HOOKS",
    "PROCESS_LOCK",
    "alone",
    "float32_by_default",
    "holds",
    "hooks_as_they_were",
    "owner_of",
    "tensor_float_32",
    "uncompiled",
    "without_autocast",
]

#: Where a module keeps the hooks that see or change what passes.
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class _Holds:
    """Attributes that several threads hold at one value; the last that lets go gives back what was there.

    Of two threads that each put a flag and put it back, the second would put back what the first had put.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[tuple[int, str], tuple[object, object, int]] = {}

    @contextmanager
    def __call__(self, wanted: Iterable[tuple[object, str, object]]) -> Iterator[None]:
        """Holds each ``(object, attribute, value)`` while its body runs."""
        taken: list[tuple[object, str]] = []
        try:
            with self._lock:
                for owner, name, value in wanted:
                    key = id(owner), name  # the entry keeps its owner alive, so that the id stays its own
                    _, before, holders = self._held.get(key, (owner, getattr(owner, name), 0))
                    setattr(owner, name, value)
                    self._held[key] = owner, before, holders + 1
                    taken.append((owner, name))
            yield
        finally:
            with self._lock:
                for owner, name in reversed(taken):
                    _, before, holders = self._held.pop((id(owner), name))
                    if holders > 1:
                        self._held[id(owner), name] = owner, before, holders - 1
                    else:
                        setattr(owner, name, before)


holds = _Holds()
#: Of random states and warning filters, of which the process has one. A thread that needs a model's lock
#: too takes that first.
PROCESS_LOCK = threading.RLock()
#: One lock for each model, by its first tensor: so wrappers and compiled forms of a model share it.
_LOCKS: MutableMapping[object, threading.RLock] = WeakIdKeyDictionary()
_LOCKS_LOCK = threading.Lock()


@contextmanager
def alone(module: object) -> Iterator[None]:
    """Runs its body while no other thread runs the model: methods put hooks on layers, which all see.

    Other models run side by side. What is not an :class:`torch.nn.Module` passes.

    Args:
        module: As for :func:`frozen`.
    """
    owner = owner_of(module)
    if owner is None:
        yield
        return
    key = next(chain(owner.parameters(), owner.buffers()), owner)
    with _LOCKS_LOCK:
        lock = _LOCKS.setdefault(key, threading.RLock())
    with lock:
        yield


def tensor_float_32(wanted: bool) -> AbstractContextManager[None]:
    """TF32 for CUDA's products and convolutions, if wanted: switches of the process, put back after."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    if not wanted:
        return nullcontext()
    if hasattr(matmul, "fp32_precision"):  # beside which the older switches refuse to work
        conv: Any = cudnn.conv  # type: ignore[attr-defined]
        return holds((switch, "fp32_precision", "tf32") for switch in (matmul, conv))
    return holds((switch, "allow_tf32", True) for switch in (matmul, cudnn))


class _Stance:
    """Whether what was compiled runs as it was written, a switch of the process."""

    def __init__(self) -> None:
        self._set: Any = None

    @property
    def eager(self) -> bool:
        return self._set is not None

    @eager.setter
    def eager(self, wanted: bool) -> None:
        if wanted and self._set is None:
            self._set = torch.compiler.set_stance("force_eager")
        elif not wanted and self._set is not None:
            self._set.__exit__(None, None, None)
            self._set = None


_stance = _Stance()


def uncompiled() -> AbstractContextManager[None]:
    """Runs its body with every compiled model as it was written.

    A compiled model calls no hooks that it was not compiled with, and gives the buffers of its backward pass
    away in the first one.
    """
    # Nothing is compiled before this module is imported, which takes a second.
    compiles = "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance")
    return holds([(_stance, "eager", True)]) if compiles else nullcontext()


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Runs its body without the autocast of a caller, which would change a map without a word."""
    on = torch.is_autocast_enabled(device.type)
    return torch.autocast(device.type, enabled=False) if on else nullcontext()


class _DefaultDtype:
    @property
    def value(self) -> torch.dtype:
        return torch.get_default_dtype()

    @value.setter
    def value(self, dtype: torch.dtype) -> None:
        torch.set_default_dtype(dtype)


_default_dtype = _DefaultDtype()


def float32_by_default() -> AbstractContextManager[None]:
    """Runs its body with PyTorch's default dtype, in which methods of Captum draw their random numbers."""
    changed = torch.get_default_dtype() != torch.float32
    return holds([(_default_dtype, "value", torch.float32)]) if changed else nullcontext()


@contextmanager
def hooks_as_they_were(module: object) -> Iterator[None]:
    """Takes the hooks away that its body leaves on the layers of ``module``, as a method that fails may."""
    owner = owner_of(module)
    hooks = [
        getattr(m, name)
        for m in (owner.modules() if owner is not None else ())
        for name in HOOKS
        if hasattr(m, name)
    ]
    before = [set(of_layer) for of_layer in hooks]
    try:
        yield
    finally:
        for of_layer, known in zip(hooks, before, strict=True):
            for key in of_layer.keys() - known:
                del of_layer[key]


def owner_of(function: object) -> nn.Module | None:
    """The module that a callable is, or is a method of."""
    while isinstance(function, functools.partial):
        function = function.func
    function = getattr(function, "__self__", function)
    return function if isinstance(function, nn.Module) else None
