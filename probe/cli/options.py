"""Options of commands: those of :class:`probe.runner.Options`, made from its fields."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from ..errors import ProbeError
from ..runner.options import CHOICES, Options, OptionsGiven, option_words

DEFAULT_MODEL = "tf_efficientnet_lite0"

REPORTS = Path("reports")

QUICK = "A small profile of under 10 minutes on 2 cores, in place of the full one."

Models = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="MODEL",
        help=f"timm names, globs such as 'resnet*' or (over pretrained tags) 'resnet50.*', or "
        f"files with one a line; without any, {DEFAULT_MODEL}.",
        show_default=False,
    ),
]

OneWeights = Annotated[
    str,
    typer.Option(
        help="pretrained, random (further draws: random:1, …), or a .safetensors or .pth file."
    ),
]

Out = Annotated[Path, typer.Option(help="Folder of the reports.")]

Seeds = Annotated[int, typer.Option(help="How many seeds.")]

Workers = Annotated[
    int | None,
    typer.Option(
        help="How many networks are trained side by side; by default one for each core, and one "
        "on a GPU.",
        show_default=False,
    ),
]

_DEFAULTS = {field.name: field.default for field in fields(Options)}


def with_options(
    *names: str, **defaults: Any
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command some of :class:`~probe.runner.Options`.

    The command takes them as ``**options``, ready for the function of the same name: lists are
    split at commas, sizes are read, and what was not given is left out where the default depends on
    something else.

    Parameters
    ----------
    names : str
        Which options.
    **defaults
        In place of the dataclass's.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        return _Command(command, names, defaults)

    return decorate


class _Command:
    """A command with its options; what can be named is read anew whenever help is shown."""

    def __init__(
        self, command: Callable[..., None], names: Sequence[str], defaults: Mapping[str, Any]
    ) -> None:
        self.command, self.names, self.defaults = command, names, defaults
        self.__name__, self.__doc__ = command.__name__, command.__doc__
        self.__annotations__: dict[str, Any] = {}  # those of the signature count

    @property
    def __signature__(self) -> inspect.Signature:
        written = inspect.signature(self.command, eval_str=True)
        start = [p for p in written.parameters.values() if p.kind is not p.VAR_KEYWORD]
        options = [_parameter(n, self.defaults.get(n, _DEFAULTS[n])) for n in self.names]
        ordered = [p for p in start if p.name != "out"] + options
        ordered += [p for p in start if p.name == "out"]  # last in every --help
        return written.replace(parameters=[_named(p) for p in ordered])

    def __call__(self, **words: Any) -> None:
        for name in self.names:
            words[name] = _value(name, words[name])
            if words[name] is None:
                del words[name]
        self.command(**words)


def _named(parameter: inspect.Parameter) -> inspect.Parameter:
    """Put what can be named into the help of a parameter: ``{targets}`` and the like."""
    kind, option = get_args(parameter.annotation)
    if "{" in (option.help or ""):
        option = copy(option)
        choices = {name: ", ".join(known) for name, known in CHOICES.items()}
        option.help = option.help.format(**choices)
    return parameter.replace(kind=parameter.KEYWORD_ONLY, annotation=Annotated[kind, option])


def _parameter(name: str, default: Any) -> inspect.Parameter:
    """One option as typer reads it."""
    kind = _kind(name)
    hidden = default is None or name == "targets"
    if hidden and name == "targets" and tuple(default) == _DEFAULTS["targets"]:
        default = None
    if kind == list[str] and isinstance(default, str):
        default = [default]
    elif kind == list[str] and default is not None:
        default = list(default)
    elif name == "image_size" and default is not None:
        default = str(default)
    option = typer.Option(
        metavar="PIXELS" if name in ("image_size", "margin") else None,
        help=_help(name),
        show_default=not hidden,
    )
    annotation: Any = Annotated[kind if default is not None else kind | None, option]
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )


def _kind(name: str) -> Any:
    """The type of an option on the command line."""
    given = OptionsGiven.__annotations__[name].__forward_arg__
    if "Sequence[str" in given:
        return list[str]
    if name == "image_size":
        return str
    return {"int": int, "float": float, "bool": bool}.get(given.split(" | ")[0], str)


def _help(name: str) -> str:
    """What the docstring of the options says, without markup, and what can be named."""
    sentences = re.split(r"(?<=\.) (?=[A-Z])", option_words()[name])
    text = " ".join(s for s in sentences if not s.startswith(("See :", "From Python")))
    text = re.sub(r":\w+:`~?([^`]*)`", r"\1", text).replace("``", "")
    text = re.sub(r", see probe\.[\w.]+\.", ".", text)
    if name == "image_size":
        text = text.replace(
            "Pixels, one number or height and width", "224, or 224x320: height x width", 1
        )
    if name in CHOICES:
        text = f"{text} Known: {{{name}}}."
    return text.replace("×", "x")


def _value(name: str, word: Any) -> Any:
    """What was written on the command line, as Python takes it."""
    if name == "image_size":
        return parse_size(word)
    if _kind(name) == list[str]:
        return split_items(word) if word else None
    return word


def split_items(values: Iterable[str]) -> list[str]:
    """Split at commas, but not inside the brackets of a glob nor the path of a file."""
    items: list[str] = []
    for value in values:
        items += (
            [value]
            if _exists(value.removeprefix("local-dir:"))
            else re.split(r",(?![^\[]*\])", value)
        )
    return [item.strip() for item in items if item.strip()]


def _exists(path: str) -> bool:
    try:
        return Path(path).expanduser().exists()
    except (OSError, RuntimeError, ValueError):
        return False


def parse_seconds(text: str) -> float:
    """Read ``90``, ``30m`` or ``2h`` as seconds.

    Raises
    ------
    ProbeError
        If it is something else.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip())
    if match is None or not float(match[1]):
        raise ProbeError(f"time limit: expected seconds such as 90, or 30m or 2h, got {text!r}")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def parse_size(text: str | None) -> int | tuple[int, int] | None:
    """Read ``224`` or ``224x320``.

    Raises
    ------
    ProbeError
        If it is something else.
    """
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)(?:[x×](\d+))?", text.strip())
    if match is None:
        raise ProbeError(f"image size: expected 224, or 224x320 for height x width, got {text!r}")
    height, width = match.groups()
    return int(height) if width is None else (int(height), int(width))
