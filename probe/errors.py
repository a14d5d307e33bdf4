"""Exceptions, warnings and argument checks."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any


class ProbeError(ValueError):
    """A request that can't be met, explained in one sentence to the person who made it.

    The command prints it and exits with status 2.
    """


class NotFiniteError(ProbeError):
    """Features or weights that are NaN or infinite."""


class ProbeWarning(UserWarning):
    """A caution that a reader of the result should know about."""


def one_of(value: str, known: Iterable[str], what: str) -> str:
    """Return ``value`` if it is among ``known``, else raise with the near matches."""
    names = list(known)
    if value in names:
        return value
    hint = did_you_mean(str(value), names)
    raise ProbeError(f"unknown {what} {value!r}: expected one of {', '.join(names)}.{hint}")


def chosen(names: str | Sequence[str], known: Iterable[str], what: str) -> list[str]:
    """Return one or several names as a list, each once and known; ``what`` names them."""
    listed = [names] if isinstance(names, str) else list(names)
    if not listed:
        raise ProbeError(f"{what}: expected at least one of {', '.join(known)}")
    return [one_of(name, known, what) for name in dict.fromkeys(listed)]


def did_you_mean(value: str, names: Iterable[str], cutoff: float = 0.6) -> str:
    """End a message with the names that are near what was given, if any are."""
    near = get_close_matches(value, list(names), n=3, cutoff=cutoff)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""


def whole_number(value: Any, what: str, least: int) -> int:
    """Return a whole number of at least ``least``; a number like 3.0 is none."""
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or number < least:
        raise ProbeError(f"{what}: expected a whole number of at least {least}, got {value!r}")
    return number
