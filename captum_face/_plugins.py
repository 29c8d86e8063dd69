"""Registries that installed packages can add to: methods, metrics and scores by name."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from captum_face._notebook import paragraphs, table
from captum_face._validation import require_choice

__all__ = ["Registry"]

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """Entries by name: those that were registered, then those of installed plug-ins.

    A plug-in is an entry point of the registry's group. It is loaded when it is asked for by name, or when
    all entries are listed. One that cannot be used is left out with a warning of one line, and everything
    else goes on working.

    Args:
        what: What an entry is, as messages call it: ``"method"``.
        group: The entry-point group, such as ``"captum_face.methods"``.
        check: Raises an error that says what is wrong with an entry that a plug-in brings; called with its
            name and the entry.
        facts: Attributes of an entry that a notebook shows beside its name, in a table.
    """

    def __init__(
        self, what: str, group: str, check: Callable[[str, T], None], facts: Sequence[str] = ()
    ) -> None:
        self.what, self.group, self.check, self.facts = what, group, check, facts
        self._own: dict[str, T] = {}
        self._loaded: dict[str, T] = {}
        self._found: dict[str, EntryPoint] | None = None
        #: Why plug-ins were left out, a line each.
        self.problems: list[str] = []

    def register(self, name: str, entry: T) -> None:
        """Adds an entry.

        Raises:
            ValueError: another entry has the name. The same definition, made anew, replaces the old one.
        """
        known = self._own.get(name, entry)
        if known is not entry and not (isinstance(entry, type) and _origin(known) == _origin(entry)):
            raise ValueError(
                f"expected a free name for the {self.what} {_origin(entry)}, got {name!r}, which is taken by "
                f"{_origin(known)}; choose another name"
            )
        self._own[name] = entry

    def unregister(self, name: str) -> None:
        """Removes an entry that was registered."""
        del self._own[name]

    def refresh(self) -> None:
        """Looks for plug-ins anew, after a package was installed."""
        self._found = None
        self._loaded.clear()
        self.problems.clear()

    def find(self, name: object) -> T:
        """The entry of that name.

        Raises:
            TypeError: the name is no text.
            ValueError: no such entry (the message says the nearest one), or a plug-in that cannot be used.
        """
        if isinstance(name, str) and name not in self._own:
            self._load(name)
            broken = next((line for line in self.problems if line.startswith(f"{self.what} {name!r} ")), None)
            if broken and name not in self._loaded:
                raise ValueError(broken)
        return self[require_choice(name, self, self.what)]

    def __getitem__(self, name: str) -> T:
        return self._own[name] if name in self._own else self._load(name)[name]

    def __contains__(self, name: object) -> bool:
        return name in self._own or (isinstance(name, str) and name in self._load(name))

    def __iter__(self) -> Iterator[str]:
        for name in list(self._plugins()):  # of which those that cannot be used are removed
            self._load(name)
        yield from self._own
        yield from sorted(name for name in self._loaded if name not in self._own)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"<{len(self)} {self.what}s: {', '.join(self)}>"

    def _repr_html_(self) -> str:
        rows = ([name, *(getattr(entry, fact, None) for fact in self.facts)] for name, entry in self.items())
        return table([self.what, *self.facts], rows) + paragraphs(self.problems)

    def _plugins(self) -> dict[str, EntryPoint]:
        """Entry points by name; a second one of a name is a problem."""
        if self._found is None:
            self._found = {}
            for point in sorted(
                entry_points(group=self.group), key=lambda point: (point.name, _origin(point))
            ):
                if point.name in self._own and not self._brings(point):
                    self._leave_out(point, f"the name is taken by {_origin(self._own[point.name])}")
                elif point.name in self._found:
                    self._leave_out(point, f"the name is taken by {_origin(self._found[point.name])}")
                else:
                    self._found[point.name] = point
        return self._found

    def _brings(self, point: EntryPoint) -> bool:
        """Whether what has the name is what the entry point leads to, loaded already."""
        if point.module not in sys.modules:
            return False
        try:
            return point.load() is self._own[point.name]
        except Exception:  # then it is said when it is loaded
            return False

    def _load(self, name: str) -> dict[str, T]:
        """What plug-ins brought so far, that of the name among it if it can be used."""
        point = self._plugins().get(name)
        if point is not None and name not in self._loaded:
            before = dict(self._own)
            try:
                entry = point.load()
                self.check(name, entry)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # whatever the code of others raises, SystemExit among it
                del self._plugins()[name]
                self._own = before  # without what the module registered before it proved to be broken
                self._leave_out(point, f"{type(error).__name__}: {error}")
            else:
                self._loaded[name] = entry
        return self._loaded

    def _leave_out(self, point: EntryPoint, reason: str) -> None:
        line = f"{self.what} {point.name!r} of {_origin(point)} is left out: {' '.join(reason.split())}"
        self.problems.append(line)
        warnings.warn(line, UserWarning, stacklevel=4)


def _origin(entry: object) -> str:
    """Where an entry comes from: a distribution with its version, or the place of a definition."""
    if isinstance(entry, EntryPoint):
        return f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else entry.value
    named = entry if hasattr(entry, "__qualname__") else type(entry)
    return f"{getattr(named, '__module__', '')}.{getattr(named, '__qualname__', '')}"
