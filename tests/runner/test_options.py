"""Options: settled once, shown in every signature, and the same on the command line."""

from __future__ import annotations

import dataclasses
import inspect

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import probe
from probe.cli.main import app
from probe.cli.options import parse_size, split_items
from probe.runner.options import Options, OptionsGiven, option_words, takes_options

FIELDS = [field.name for field in dataclasses.fields(Options)]
TAKING = {
    "run": set(FIELDS),
    "calibrate": {"layers", "targets", "kernel", "concat", "seed"},
    "attribute": {"stimuli", "train_images", "seed", "name", "mean", "std"},
    "ladder": {"layers", "targets", "image_size", "name", "mean", "std"},
    "reproduce": {"readout", "train_images", "image_size", "device"},
}


def test_each_field_can_be_given_and_has_its_words():
    keys = set(OptionsGiven.__required_keys__ | OptionsGiven.__optional_keys__)
    assert keys == set(FIELDS) == set(option_words())
    assert all(len(words) > 10 for words in option_words().values())


@pytest.mark.parametrize("name", TAKING)
def test_signatures_and_docstrings_show_every_option(name):
    function = getattr(probe, name)
    shown = inspect.signature(function).parameters
    assert set(shown) >= TAKING[name]
    assert not any(p.kind is p.VAR_KEYWORD for p in shown.values())
    documentation = inspect.getdoc(function)
    assert "{options}" not in documentation
    assert all(f"\n{option} : " in documentation for option in TAKING[name])
    for option in TAKING[name] - {"targets", "train_images", "image_size", "readout"}:
        assert shown[option].default == getattr(Options, option)


def test_an_option_that_a_function_does_not_have_is_refused_as_python_does():
    with pytest.raises(TypeError, match="variants"):
        probe.calibrate("resnet18", variants="reflect")
    with pytest.raises(TypeError, match="tragets"):
        probe.run("resnet18", tragets="vertical")


def test_options_are_settled_when_they_are_made():
    options = Options.of({"layers": ["a", "b"], "image_size": 64, "weights": "random"})
    assert options.layers == ("a", "b")
    assert options.image_size == (64, 64)
    assert options.weights == ("random",)
    assert (options.train_images, options.kernel, options.concat) == (256, 1, False)
    published = Options.of({"readout": "posenet"})
    assert (published.train_images, published.kernel, published.concat) == (2048, 3, True)
    again = dataclasses.replace(options, image_size=(32, 48))
    assert again.image_size == (32, 48)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"targets": "vertcal"}, "vertical"),
        ({"readout": "ride"}, "ridge"),
        ({"kernel": 2}, "expected 1 or 3"),
        ({"kernel": 3, "readout": "softmax"}, "has kernel 1"),
        ({"train_images": 1}, "at least 2"),
        ({"seed": -1}, "at least 0"),
        ({"seed": True}, "whole number"),
        ({"image_size": (1, 2, 3)}, "height, width"),
        ({"margin": 32}, "canvas"),
        ({"weights": []}, "one or several"),
        ({"variants": 3}, "one or several"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(wrong, said):
    with pytest.raises(probe.ProbeError, match=said):
        Options.of(wrong)


def test_options_may_be_given_by_position_too():
    @takes_options("weights", "seed", seed=7)
    def asked(model, **options):
        """Say what was asked: {options}."""
        return model, options

    assert asked("m") == ("m", {"weights": Options.weights, "seed": 7})
    assert asked("m", "random", 3) == ("m", {"weights": "random", "seed": 3})


@pytest.mark.parametrize("name", TAKING)
def test_every_command_has_the_options_of_its_function(name):
    function = inspect.signature(getattr(probe, name)).parameters
    help_text = CliRunner().invoke(app, [name, "--help"], terminal_width=200).output
    for option in set(function) & set(FIELDS) - {"name", "mean", "std", "forward_kwargs"}:
        assert f"--{option.replace('_', '-')}" in help_text


@given(st.integers(1, 9999), st.integers(1, 9999))
def test_sizes_are_read_as_they_are_written(height, width):
    assert parse_size(f"{height}x{width}") == (height, width)
    assert parse_size(str(height)) == height


def test_lists_are_split_at_commas_but_not_in_brackets():
    assert split_items(["a,b", "c[1,2]d", " e "]) == ["a", "b", "c[1,2]d", "e"]


@pytest.mark.parametrize("name", [b"x", 3, ["a"]])
def test_a_name_that_is_no_text_is_refused_before_anything_runs(name):
    with pytest.raises(probe.ProbeError, match="name: expected words, got"):
        probe.run("test_resnet", name=name)
