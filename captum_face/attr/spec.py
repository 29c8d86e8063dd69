"""A method with its options, written as one short text: ``corrrise:n_patches=10,smooth=5``."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, cast

from captum.attr import Attribution
from torch import Tensor

from captum_face._validation import require_choice
from captum_face.attr.base import PairAttribution
from captum_face.attr.each_side import captum_method
from captum_face.attr.registry import METHODS, get_method, null_baselines
from captum_face.data.faces import image_files
from captum_face.maps.signed import smooth
from captum_face.pair.passes import digest

__all__ = ["AnyMethod", "MethodSpec", "display_name", "display_parts", "option_meanings", "parse_methods"]


@dataclass(frozen=True)
class MethodSpec:
    """A method, its options, and what is done to its maps; made by :meth:`of`."""

    label: str  #: as it was asked for, such as ``"corrrise:n_patches=10,smooth=5"``
    kind: type[PairAttribution]  #: the method's class
    arguments: dict[str, Any] = field(default_factory=dict)  #: of the class's constructor
    options: dict[str, Any] = field(default_factory=dict)  #: of the method's ``attribute``
    sigma: float = 0.0  #: standard deviation in pixels of the Gaussian that smooths the maps
    instance: PairAttribution | None = None  #: the method itself, where a caller gave one

    @classmethod
    def of(cls, method: AnyMethod) -> MethodSpec:
        """What a caller asks for.

        Args:
            method: ``"NAME"`` or ``"NAME:KEY=VALUE,..."``; a class of a method of this package or of Captum;
                or an instance of a :class:`~captum_face.PairAttribution`. A name is one of
                :data:`~captum_face.METHODS` or the dotted name of a class, such as
                ``captum.attr.IntegratedGradients``. Keys are options of the method's ``attribute`` and
                arguments of its constructor, and ``smooth``, a standard deviation in pixels. Values are JSON
                (numbers, true, false, null, lists) or plain words.

        Raises:
            TypeError: none of these.
            ValueError: an unknown method or option (the message says the nearest one), or what is not
                KEY=VALUE.
        """
        if isinstance(method, MethodSpec):
            return method
        if isinstance(method, type):
            found = _as_pair_method(method, f"{method.__module__}.{method.__qualname__}")
            return cls(name_of(found), found)
        if isinstance(method, PairAttribution):
            instance = cast(PairAttribution, method)
            stored = {key: value for key, value in vars(instance).items() if key != "forward_func"}
            return cls(name_of(type(instance)), type(instance), stored, instance=instance)
        if not isinstance(method, str):
            raise TypeError(
                "expected a method by its name, as a class or as an instance such as FGGB(pair), got "
                f"{method!r}"
            )
        name, _, rest = method.partition(":")
        found = _named(name)
        known = found.options()
        arguments = found.arguments() - known.keys()
        given: dict[str, Any] = {}
        for item in _items(rest):
            key, separator, text = item.partition("=")
            if not separator:
                raise ValueError(f"expected NAME:KEY=VALUE,KEY=VALUE, got {method!r}")
            require_choice(key, [*known, *sorted(arguments), "smooth"], f"option of {name}")
            given[key] = _value(text)
        sigma = given.pop("smooth", 0.0)
        if isinstance(sigma, bool) or not isinstance(sigma, (int, float)) or not 0 <= sigma < float("inf"):
            raise ValueError(f"expected smooth of at least 0 pixels in {method!r}, got {sigma!r}")
        return cls(
            method,
            found,
            {key: value for key, value in given.items() if key in arguments},
            {key: value for key, value in given.items() if key not in arguments},
            float(sigma),
        )

    @property
    def name(self) -> str:
        """What the registry calls the method, or the place of its class."""
        return name_of(self.kind)

    def build(self, forward_func: Any) -> PairAttribution:
        """The method on a ``forward_func``.

        Raises:
            ValueError: an instance that explains another one.
        """
        if self.instance is None:
            missing = [name for name in self.kind.required() if name not in self.arguments]
            if missing:
                raise ValueError(
                    f"{self.name} needs its argument {missing[0]!r}: expected {self.name}:{missing[0]}=..., "
                    f"got {self.label}"
                )
            return self.kind(forward_func, **self.arguments)
        if self.instance.forward_func is not forward_func:
            raise ValueError(
                f"expected an instance of {self.name} on the pair that is explained, got one on another; "
                "give the class or the name"
            )
        return self.instance

    def require_options(self, options: Mapping[str, Any]) -> None:
        """Checks options that are given beside those of the text.

        Raises:
            ValueError: the method has no such option; the message says the nearest one.
        """
        for name in options:
            require_choice(name, self.kind.options(), f"option of {self.name}")

    def smoothed(self, maps: Tensor) -> Tensor:
        """What is done to the maps of one side."""
        return smooth(maps, self.sigma) if len(maps) else maps

    @property
    def cohort_option(self) -> str | None:
        """The option for which a run has to find other people; None if there is none, or it is given."""
        option = self.kind.cohort_option()
        given = {**self.arguments, **self.options}
        return None if option is None or given.get(option) is not None else option

    @property
    def raw(self) -> str:
        """What rows that differ in their smoothing alone have in common."""
        which = None if self.instance is None else id(self.instance)
        return json.dumps([self.name, which, self.arguments, self.options], sort_keys=True, default=describe)

    def settings(self) -> dict[str, Any]:
        """Every option with its value, defaults included, and the content of files and cohorts."""
        defaults = {
            name: parameter.default
            for name, parameter in self.kind.options().items()
            if name not in ("seed", "generator", "show_progress")
        }
        given = {**self.arguments, **self.options}
        files = {
            f"{name}_sha256": _content(Path(value))
            for name, value in given.items()
            if isinstance(value, (str, Path))
            and (Path(value).is_file() or (name == self.kind.cohort_option() and Path(value).is_dir()))
        }
        given = {name: _jsonable(value) for name, value in given.items()}
        cohort = {self.cohort_option: "other people of the list"} if self.cohort_option else {}
        options = {**defaults, **given, **files, **cohort}
        return {"method": self.name, "options": options, "smooth": self.sigma}


#: What callers may give as a method; see :meth:`MethodSpec.of`.
AnyMethod: TypeAlias = str | type[Attribution] | PairAttribution | MethodSpec


def parse_methods(methods: AnyMethod | Iterable[AnyMethod]) -> list[MethodSpec]:
    """The methods that are asked for, each once, with the null baselines at the end.

    Args:
        methods: One or several, each as for :meth:`MethodSpec.of`, or ``"all"`` for every registered one.

    Raises:
        TypeError, ValueError: as :meth:`MethodSpec.of`; two methods of one label.
    """
    nulls = null_baselines()
    wanted: list[Any] = []
    single = isinstance(methods, (str, type, PairAttribution, MethodSpec)) or not isinstance(
        methods, Iterable
    )
    for method in cast(Iterable[Any], [methods] if single else methods):
        wanted += list(METHODS) if isinstance(method, str) and method == "all" else [method]
    specs: dict[str, MethodSpec] = {}
    for spec in map(MethodSpec.of, [*wanted, *nulls]):
        known = specs.setdefault(spec.label, spec)
        if known.kind is not spec.kind or known.raw != spec.raw:
            raise ValueError(f"expected methods of different names, got two of the name {spec.label!r}")
    # The baselines last, wherever they were asked for; a variant of one is a row like any other.
    return sorted(specs.values(), key=lambda spec: spec.label in nulls)


def display_name(method: str) -> str:
    """What figures and reports call a method that is asked for by a text, with its options in brackets.

    Args:
        method: As for :meth:`MethodSpec.of`. Any other text is returned as it is.

    Example::

        >>> display_name("corrrise:n_masks=1000,smooth=3")
        'CorrRISE (n_masks=1000, smooth=3)'
        >>> display_name("captum.attr.IntegratedGradients"), display_name("My own: second try")
        ('Captum Integrated Gradients', 'My own: second try')
    """
    name, options = display_parts(method)
    return f"{name} ({', '.join(options)})" if options else name


def display_parts(method: str) -> tuple[str, list[str]]:
    """The name and the options of :func:`display_name` apart."""
    name, _, rest = method.partition(":")
    if name in METHODS:
        return METHODS[name].display, _items(rest)
    parts = name.split(".")
    if len(parts) > 1 and all(part.isidentifier() for part in parts):  # the place of a class
        words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", parts[-1]).replace("_", " ")
        return f"Captum {words}" if parts[0] == "captum" else words, _items(rest)
    return method, []


def option_meanings(kind: type[PairAttribution]) -> dict[str, str]:
    """What the options of a method mean, by name, as the docstrings of it and of what it is made of say.

    Args:
        kind: A class of METHODS, or what :meth:`MethodSpec.of` makes of a class of Captum.

    Example::

        >>> option_meanings(METHODS["corrrise"])["seed"].partition(";")[0]
        'Makes the maps repeatable'
    """
    classes = [base for base in reversed(kind.__mro__) if issubclass(base, PairAttribution)]
    if "captum_class" in vars(kind):
        classes.append(vars(kind)["captum_class"])
    found: dict[str, str] = {}
    for place in (*classes, *(vars(base).get("attribute") for base in classes)):
        found |= _documented_arguments(place)
    return found


def _documented_arguments(place: object) -> dict[str, str]:
    """The ``Args`` of a docstring in Google's style, by name."""
    text = inspect.cleandoc(place.__doc__ or "")
    section = re.search(r"^Args:\n+(.*?)(?=^\S|\Z)", text, re.DOTALL | re.MULTILINE)
    name = r"^ {4}(\w+)(?: \([^\n]*\))?: "  # Captum's have their type behind them
    entry = re.compile(rf"{name}(.*?)(?={name}|\Z)", re.DOTALL | re.MULTILINE)
    found = entry.findall(section[1]) if section else []
    return {name: " ".join(meaning.split()) for name, meaning, _ in found}


def _named(name: str) -> type[PairAttribution]:
    """A registered method, or a class by its dotted name."""
    if "." not in name:
        return get_method(name)
    module_name, _, class_name = name.rpartition(".")
    if not module_name or not class_name:
        raise ValueError(f"expected a method's name or the dotted name of a class, got {name!r}")
    try:
        found = getattr(importlib.import_module(module_name), class_name, None)
    except ImportError as error:
        raise ValueError(
            "expected the dotted name of a class such as captum.attr.IntegratedGradients, got "
            f"{name!r}: {error}"
        ) from error
    if not isinstance(found, type):
        raise ValueError(f"expected a class {class_name!r} in the module {module_name}, found {found!r}")
    return _as_pair_method(found, name)


def name_of(kind: type[PairAttribution]) -> str:
    """A class's own name in the registry; a subclass has none of its parent's, but its place."""
    return str(vars(kind).get("name") or f"{kind.__module__}.{kind.__qualname__}")


def describe(value: object) -> str:
    """A value that JSON does not hold, so that equal values have equal texts."""
    if isinstance(value, Tensor):
        return f"tensor {tuple(value.shape)} {digest(value)!r}"
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    # An object's address differs from process to process.
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def _jsonable(value: Any) -> Any:
    return json.loads(json.dumps(value, default=describe))


def _content(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents of the images in a folder."""
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    digest = hashlib.sha256()
    for name, file in image_files(path).items():
        digest.update(f"{name}\n{_content(file)}\n".encode())
    return digest.hexdigest()


def _as_pair_method(found: type, name: str) -> type[PairAttribution]:
    if issubclass(found, PairAttribution):
        if not callable(getattr(found, "attribute", None)):
            raise ValueError(f"expected a method, got {name}, which has no attribute()")
        return found
    if not issubclass(found, Attribution):
        raise ValueError(
            f"expected a class of captum_face.PairAttribution or captum.attr.Attribution, got {name}"
        )
    if found.__module__.startswith("captum."):
        name = f"captum.attr.{found.__name__}"
    return captum_method(found, name)  # type: ignore[arg-type]


def _items(text: str) -> list[str]:
    """Parts between commas, of which those inside brackets and quotes separate nothing."""
    return [item for item in re.findall(r"(?:\[[^\]]*\]|\{[^}]*\}|\"[^\"]*\"|[^,])+", text) if item]


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
