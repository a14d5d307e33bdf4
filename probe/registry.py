"""Registries: the named things that a run can be asked for, open to more of them."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Generic, TypeVar, cast

from .errors import ProbeError, one_of

T = TypeVar("T")
V = TypeVar("V")


class Registry(MutableMapping[str, T], Generic[T]):
    """Things by name, with a line of words on each.

    Those that come with the package are imported when they are first used, so that names and
    words cost nothing.

    ``what`` the names name is for messages; ``builtin`` says by name where a thing is
    (``module:attribute``), and its words.

    Examples
    --------
    >>> READOUTS["mine"] = MyReadout  # its words are the first line of its docstring
    >>> @READOUTS.register("mine", "nearest mean of a class")
    ... class MyReadout(Readout): ...
    """

    def __init__(self, what: str, builtin: Mapping[str, tuple[T | str, str]]) -> None:
        self.what = what
        self._entries: dict[str, T | str] = {name: entry for name, (entry, _) in builtin.items()}
        self._words = {name: words for name, (_, words) in builtin.items()}

    def __getitem__(self, name: str) -> T:
        entry = self._entries[name]
        if isinstance(entry, str):
            module, _, attribute = entry.partition(":")
            entry = self._entries[name] = getattr(importlib.import_module(module), attribute)
        return cast(T, entry)

    def __setitem__(self, name: str, value: T) -> None:
        if not isinstance(name, str) or not name:
            raise ProbeError(f"{self.what}: expected a name, got {name!r}")
        self._entries[name] = value
        self._words[name] = (inspect.getdoc(value) or "").partition("\n")[0].rstrip(".")

    def __delitem__(self, name: str) -> None:
        del self._entries[name], self._words[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    @property
    def words(self) -> Mapping[str, str]:
        """What each is, in one line."""
        return dict(self._words)

    def find(self, name: str) -> T:
        """Return one by its name, or say which names there are."""
        return self[one_of(name, self, self.what)]

    def register(self, name: str, words: str = "") -> Callable[[V], V]:
        """Add what is decorated under a name."""

        def add(value: V) -> V:
            self[name] = cast(T, value)
            if words:
                self._words[name] = words
            return value

        return add
