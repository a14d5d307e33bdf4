"""Registries: names and words at once, what is behind them on first use, more from outside."""

from __future__ import annotations

import pytest

import probe
from probe.registry import Registry


def numbers() -> Registry[float]:
    return Registry("number", {"pi": ("math:pi", "half a turn"), "two": (2.0, "the first prime")})


def test_entries_come_from_their_modules_when_they_are_used():
    registry = numbers()
    assert list(registry) == ["pi", "two"] and len(registry) == 2
    assert registry["pi"] == pytest.approx(3.14159, abs=1e-5)
    assert registry["two"] == 2
    assert registry.words == {"pi": "half a turn", "two": "the first prime"}
    lazy = Registry("number", {"none": ("no_such_module:x", "")})
    assert "none" in lazy
    with pytest.raises(ImportError, match="no_such_module"):
        lazy["none"]


def test_more_can_be_added_and_taken_away():
    registry: Registry[object] = Registry("thing", {})

    @registry.register("one", "words of one")
    class One: ...

    class Two:
        """First line.

        More of it.
        """

    registry["two"] = Two
    assert dict(registry) == {"one": One, "two": Two}
    assert registry.words == {"one": "words of one", "two": "First line"}
    del registry["one"]
    assert list(registry) == ["two"] == list(registry.words)
    with pytest.raises(probe.ProbeError, match="thing: expected a name, got 3"):
        registry[3] = Two


def test_an_unknown_name_is_said_with_those_there_are():
    with pytest.raises(probe.ProbeError, match=r"unknown number 'tow': .*pi, two.*'two'"):
        numbers().find("tow")
    with pytest.raises(KeyError):
        numbers()["tow"]
    assert "tow" not in numbers() and numbers().get("tow") is None
