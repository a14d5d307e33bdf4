"""What a run can be asked: every option once, with its default, its words and its check."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypedDict, TypeVar, cast

from ..errors import ProbeError, whole_number
from ..readouts import READOUTS
from ..readouts.spec import readout_kind
from ..stimuli import STIMULI
from ..targets import TARGETS, TargetMap, read_targets
from ..variants import VARIANTS, parse_variant
from .auto import AUTO

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from ..readouts.base import Readout
    from ..stimuli.source import Stimuli

DEFAULT_WEIGHTS = ("pretrained", "random", "random:1", "random:2")
"""Pretrained ones, and three draws of random ones as a control."""


CHOICES: dict[str, Iterable[str]] = {
    "variants": VARIANTS,
    "targets": TARGETS,
    "stimuli": STIMULI,
    "readout": READOUTS,
}
"""What may be named for an option."""


@dataclass(frozen=True, eq=False)
class Options:
    """What a run, and every other analysis, can be asked.

    Checked when it is made; names are then tuples, sizes are (height, width), and what depends on
    the readout is filled in.

    Attributes
    ----------
    weights : str, Path or sequence of them
        Where the weights come from: ``pretrained``, ``random``, or paths of ``.safetensors`` or
        ``.pth`` files. ``random:1``, ``random:2``, … are drawn with seeds 1, 2, … above the run's.
        From Python, a module's own are called ``given``.
    variants : str or sequence of str
        How to run the backbone: ``auto``, ``original`` and what the network's sources of position
        call for (of padding alone ``circular``; else each kind taken away alone, and all of them
        together); or a border rule of :func:`probe.padding`; ``canvas``, where the
        network sees a larger stretch of the stimulus and only its middle is probed;
        a removal of another source, such as ``no_pos_embed`` or ``no_rope``; ``no_position``, all
        of them with circular padding. Parts are joined by ``+``. See :data:`probe.VARIANTS`.
    layers : str or sequence of str
        ``stages``, ``blocks``, ``convs``, or module names and globs such as ``blocks.*``. See
        :func:`probe.backbones.choose_layers`.
    targets : str or sequence of str
        Which position maps are read; all by default. See :data:`probe.TARGETS`. From Python also
        one's own: a function of ``u`` and ``v``, which run from 0 to 1 to the right and downwards,
        or a map (rows, columns) over the image; a mapping gives them names. They are scaled to
        [0, 1].
    stimuli : str, Path, Tensor, ndarray or Stimuli
        What the images are: a name, or a folder of photographs. From Python also a tensor
        (N, C, H, W) in [0, 1], of which the first are for training, the next for testing. See
        :data:`probe.stimuli.STIMULI`.
    train_images : int, optional
        How many images to fit the readouts on, at least 2. By default 256; 2,048 for ``posenet``,
        whose gradient descent takes so many steps.
    test_images : int
        How many images to score the readouts on, at least 1. An interval takes two scenes, which
        are four images each on leaves.
    precision : float, optional
        Add test images, in steps and at most 4,096, until the widest 95 % interval of the
        differences of SPC between variants is no wider than this: 0.02. ``test_images`` are then
        the first, of which maps and the error by distance are.
    image_size : int or (int, int), optional
        Pixels, one number or height and width. By default timm's size for the model, rounded up
        to a multiple of its total stride, without which no torus of its layers closes.
    batch_size : int
        Images per forward pass. Changes nothing but rounding, speed and memory.
    readout : str
        What reads position from features. ``ridge``: a linear readout at each place, regularised
        by cross-validation over images. ``posenet``: the published protocol, trained by gradient
        descent on all layers together; with ``concat=False`` on each alone. ``softmax``:
        classification of the cells of a grid. See :mod:`probe.readouts`. From Python also an
        instance of one's own :class:`probe.readouts.Readout`: each layer gets one made like it.
    seed : int
        Of random weights, images, bootstrap, control task and gradient descent.
    device : str or torch.device
        ``auto``: CUDA where there is one, else the CPU; a module stays where it is.
    progress : bool
        Show progress bars.
    kernel : int, optional
        Of ``ridge``: 1, or 3 to read neighbourhoods of 3 × 3 places, without padding.
    concat : bool, optional
        Read all layers together, resized to a grid of 28 × 28 places and concatenated, as a layer
        called ``concat``. By default so for ``posenet`` alone.
    margin : int, optional
        Pixels that a ``canvas`` shows on each side of the image, a multiple of the total stride.
        By default the smallest that keeps the image out of padding's reach, see
        :func:`probe.variants.find_margin`.
    name : str, optional
        What to call the model.
    mean, std : sequence of float, optional
        Its normalisation by channel, if not what timm's config says (a module without one: 0 and
        1).
    forward_kwargs : mapping, optional
        Keyword arguments that a module's own ``forward`` is called with besides the images, such
        as ``{"interpolate_pos_encoding": True}`` of the transformers library.
    """

    weights: tuple[str, ...] = DEFAULT_WEIGHTS
    variants: tuple[str, ...] = ("auto",)
    layers: str | tuple[str, ...] = "stages"
    targets: tuple[str, ...] = tuple(TARGETS)
    stimuli: Any = "leaves"
    train_images: int = cast(int, None)
    test_images: int = 64
    precision: float | None = None
    image_size: tuple[int, int] | None = None
    batch_size: int = 32
    readout: str | Readout = "ridge"
    kernel: int = cast(int, None)
    concat: bool = cast(bool, None)
    seed: int = 0
    device: str | torch.device = "auto"
    margin: int | None = None
    name: str | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    forward_kwargs: Mapping[str, Any] | None = None
    progress: bool = True

    def fingerprint(self) -> str:
        """Hash of what was asked for, but for progress bars: the same options, the same bits."""
        asked = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "progress"}
        asked["targets"] = [getattr(target, "digest", target) for target in self.targets]
        return hashlib.sha256(json.dumps(asked, default=str).encode()).hexdigest()

    @classmethod
    def of(cls, given: Mapping[str, Any], **fixed: Any) -> Options:
        """Make options of what a caller gave and of what an analysis fixes.

        Raises
        ------
        ProbeError
            If one of them is not what it should be.
        """
        return cls(**{**given, **fixed})

    def __post_init__(self) -> None:
        variants = tuple(listed(self.variants, "variants"))
        if variants != (AUTO,):
            variants = tuple(parse_variant(v).name for v in variants)
        targets = read_targets(self.targets)
        readout = readout_kind(self.readout)
        if not isinstance(self.readout, str):
            if self.kernel not in (None, self.readout.kernel):
                raise ProbeError(f"kernel: the readout that was given has {self.readout.kernel}")
            object.__setattr__(self, "kernel", self.readout.kernel)
        if self.kernel not in (None, 1, 3):
            raise ProbeError(f"kernel: expected 1 or 3, got {self.kernel!r}")
        if isinstance(self.readout, str) and self.kernel not in (None, *readout.kernels):
            raise ProbeError(
                f"kernel: the readout {self.readout} has kernel "
                f"{' or '.join(map(str, readout.kernels))}, got {self.kernel}"
            )
        train_images = readout.train_images if self.train_images is None else self.train_images
        whole_number(train_images, "train_images", 2)
        whole_number(self.test_images, "test_images", 1)
        whole_number(self.batch_size, "batch_size", 1)
        whole_number(self.seed, "seed", 0)
        if self.name is not None and not isinstance(self.name, str):
            raise ProbeError(f"name: expected words, got {self.name!r}")
        if self.precision is not None and not 0 < self.precision < 2:
            raise ProbeError(
                f"precision: expected a width of intervals in (0, 2), got {self.precision!r}"
            )
        settled = {
            "weights": tuple(str(w) for w in listed(self.weights, "weights")),
            "variants": variants,
            "layers": tuple(self.layers) if isinstance(self.layers, list) else self.layers,
            "targets": targets,
            "train_images": train_images,
            "image_size": image_sides(self.image_size),
            "kernel": readout.kernels[0] if self.kernel is None else self.kernel,
            "concat": readout.concat if self.concat is None else bool(self.concat),
        }
        for name, value in settled.items():
            object.__setattr__(self, name, value)
        if self.margin is not None and not any("canvas" in v.split("+") for v in variants):
            raise ProbeError("margin: it is for the variant canvas, which was not asked for")


class SharedGiven(TypedDict, total=False):
    """What may be given for the fields of :class:`Options` but ``weights``, as keywords."""

    variants: str | Sequence[str]
    layers: str | Sequence[str]
    targets: str | Sequence[str | TargetMap] | TargetMap | Mapping[str, TargetMap]
    stimuli: str | Path | torch.Tensor | NDArray[Any] | Stimuli
    train_images: int | None
    test_images: int
    precision: float | None
    image_size: int | tuple[int, int] | None
    batch_size: int
    readout: str | Readout
    kernel: int | None
    concat: bool | None
    seed: int
    device: str | torch.device
    margin: int | None
    name: str | None
    mean: Sequence[float] | None
    std: Sequence[float] | None
    forward_kwargs: Mapping[str, Any] | None
    progress: bool


class OptionsGiven(SharedGiven, total=False):
    """What may be given for each field of :class:`Options`, as keywords of a function."""

    weights: str | Path | Sequence[str | Path]


@functools.cache
def option_words(of: type = Options) -> dict[str, str]:
    """What the docstring of :class:`Options`, or another, says of each, as one paragraph."""
    entries = re.findall(
        r"^([a-z_]+(?:, [a-z_]+)*) : [^\n]*\n((?:    [^\n]*\n?|\n)+)",
        inspect.cleandoc(of.__doc__ or ""),
        re.MULTILINE,
    )
    words = {names: " ".join(text.split()) for names, text in entries}
    return {name: text for names, text in words.items() for name in names.split(", ")}


P = ParamSpec("P")
R = TypeVar("R")


def takes_options(*names: str, **defaults: Any) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a function take some of :class:`Options`, shown in its signature and its docstring.

    The function ends with ``**options: Unpack[OptionsGiven]`` (or ``SharedGiven``) and gets those
    that were given, the others at their defaults. In its docstring ``{options}`` on a line of its
    own becomes the paragraphs on them.

    Parameters
    ----------
    names : str
        Which options, in the order of the signature.
    **defaults
        In place of the dataclass's.
    """
    known = {f.name: f.default for f in fields(Options)}
    kinds = {name: kind.__forward_arg__ for name, kind in OptionsGiven.__annotations__.items()}

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        written = inspect.signature(function)
        start = [p for p in written.parameters.values() if p.kind is not p.VAR_KEYWORD]
        alone = any(p.kind is p.KEYWORD_ONLY for p in start)
        where = start[0].KEYWORD_ONLY if alone else start[0].POSITIONAL_OR_KEYWORD
        added = [
            inspect.Parameter(
                name,
                where,
                default=defaults.get(name, known[name]),
                annotation=kinds[name],
            )
            for name in names
        ]
        signature = written.replace(parameters=[*start, *added])

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            given = signature.bind(*args, **kwargs)
            given.apply_defaults()
            options = {name: given.arguments.pop(name) for name in names}
            return function(*given.args, **given.kwargs, **options)

        call.__signature__ = signature  # type: ignore[attr-defined]
        if call.__doc__:
            call.__doc__ = _with_words(call.__doc__, signature, names)
        return call

    return decorate


def _with_words(docstring: str, signature: inspect.Signature, names: Sequence[str]) -> str:
    """Put the paragraphs on options where a docstring says ``{options}``."""
    text = inspect.cleandoc(docstring)
    paragraphs = []
    for name in names:
        parameter = signature.parameters[name]
        kind = f"{name} : {parameter.annotation}, default {parameter.default!r}"
        body = textwrap.fill(option_words()[name], 96)
        paragraphs.append(f"{kind}\n{textwrap.indent(body, '    ')}")
    return text.replace("{options}", "\n".join(paragraphs))


def listed(value: Any, what: str) -> list[Any]:
    """Return one or several names as a list, each once.

    Raises
    ------
    ProbeError
        If it is something else.
    """
    single = isinstance(value, str | Path) or not isinstance(value, Sequence | Mapping)
    items = [value] if single else list(value)
    if not items or not all(isinstance(item, str | Path) for item in items):
        raise ProbeError(f"{what}: expected one or several names, got {value!r}")
    return list(dict.fromkeys(items))


def image_sides(value: Any) -> tuple[int, int] | None:
    """Return height and width of one number or two.

    Raises
    ------
    ProbeError
        If it is something else.
    """
    if value is None:
        return None
    sides = tuple(value) if isinstance(value, Sequence) else (value, value)
    if len(sides) != 2:
        raise ProbeError(f"image_size: expected one number or (height, width), got {value!r}")
    height, width = (whole_number(side, "image_size", 1) for side in sides)
    return height, width
