"""Every method by name: what the contract tests, ``explain`` and the command line run over."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from captum_face._plugins import Registry
from captum_face._validation import require_choice
from captum_face.attr.base import PairAttribution

__all__ = ["METHODS", "get_method", "method", "null_baselines", "require_method"]

Class = TypeVar("Class", bound=type[PairAttribution])

#: What a method may need of a model, the least first.
NEEDS = ("scores alone", "embeddings", "gradients")


def require_method(name: str, entry: object) -> None:
    """Checks what stands under a method's name, such as what a plug-in brings.

    Raises:
        TypeError: no class of a :class:`~captum_face.PairAttribution`, or one whose ``attribute`` does not
            keep to the contract.
        ValueError: it was not registered, or under another name.
    """
    if not (isinstance(entry, type) and issubclass(entry, PairAttribution)):
        raise TypeError(f"expected a subclass of captum_face.PairAttribution, got {entry!r}")
    if not hasattr(entry.attribute, "on_sides"):
        raise TypeError(
            f"expected {entry.__name__}.attribute(self, sides, *, options) under @captum_face.attr.on_sides"
        )
    if vars(entry).get("name") != name:
        came = vars(entry).get("name") or "none"
        raise ValueError(
            f'expected {entry.__name__} under @captum_face.attr.method("{name}", ...), got {came!r}'
        )
    for option in entry.options().values():
        if option.default is option.empty:
            raise TypeError(
                f"expected a default for each option of {entry.__name__}, got none for {option.name!r}"
            )


#: All methods, in the order in which tables list them; those of installed plug-ins
#: (entry-point group ``captum_face.methods``) come last.
METHODS: Registry[type[PairAttribution]] = Registry(
    "method", "captum_face.methods", require_method, ("display", "family", "needs", "passes", "source")
)


def method(
    name: str,
    *,
    family: str,
    source: str,
    passes: str,
    needs: str = "scores alone",
    null: bool = False,
    argues: str | None = None,
    display: str | None = None,
) -> Callable[[Class], Class]:
    """Registers a method: a decorator above its class.

    Args:
        name: What ``explain(method=...)`` and ``--method`` call it.
        family: ``"feature-guided"``, ``"gradient"``, ``"occlusion"``, ``"relevance"`` or another.
        source: The publication.
        passes: Forward and backward passes for a pair, D = embedding size.
        needs: What it needs at least: ``"gradients"``, ``"embeddings"`` (both of a
            :class:`~captum_face.PairSimilarity`) or ``"scores alone"``.
        null: Whether it explains nothing, and stands in every table for comparison.
        argues: ``"for"`` where a null baseline argues for a match whatever is asked: metrics that ask for
            evidence against one then take the opposite of its maps. None where it argues neither way.
        display: What figures and reports call it, such as ``"CorrRISE"``; None for ``name`` with spaces for
            underscores and a capital at its start.

    Raises:
        TypeError: what it decorates does not keep to the contract; a ``display`` that is no text.
        ValueError: another method has the name; an empty ``display``.
    """
    require_choice(needs, NEEDS, "need of a method")
    words = name.replace("_", " ") if display is None else display
    if not isinstance(words, str):
        raise TypeError(f"expected display as a text, got {display!r}")
    if not words.strip():
        raise ValueError(f"expected display as a text that is not empty, got {display!r}")
    shown = words[:1].upper() + words[1:] if display is None else display

    def enter(cls: Class) -> Class:
        cls.name, cls.family, cls.source, cls.passes = name, family, source, passes
        cls.needs, cls.null, cls.argues, cls.display = needs, null, argues, shown
        require_method(name, cls)
        METHODS.register(name, cls)
        return cls

    return enter


def null_baselines() -> tuple[str, ...]:
    """The names of the methods that explain nothing; in every table."""
    return tuple(name for name, cls in METHODS.items() if cls.null)


def get_method(name: str) -> type[PairAttribution]:
    """The method of that name.

    Raises:
        ValueError: no such method (the message says the nearest one), or a plug-in that cannot be used.
    """
    return METHODS.find(name)
