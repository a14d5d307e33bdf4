"""Attribution: which padded calls, and which sides of the image, put position into a layer.

For every padded call in the layer's reach there are two questions: what does a readout find when
*only* this call keeps its padding, and what when *all but* this call do? The others are circular,
so that they leave nothing on images that tile.

Everything before a call is the same in all of these passes as in the pass without padding (*only*)
or as trained (*all but*): there, the outputs of modules are kept for the length of a batch and
played again.
"""

from __future__ import annotations

import datetime
import io
import itertools
import json
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary
from tqdm.auto import tqdm

from . import scores
from .backbones import Backbone, input_size, known_model, load_backbone, pick_device
from .borders import SIDES, Call, padding
from .errors import ProbeError, ProbeWarning, one_of
from .files import json_bytes, reading, write_files
from .layers import (
    Layer,
    Taps,
    all_tensors,
    choose_layers,
    describe,
    evaluating,
    first_tensor,
    hooked,
    tap,
    total_stride,
)
from .readouts import FOLDS, Ridge
from .results import KNOWLEDGE, interval, short_name
from .runner import (
    check_options,
    device_name,
    exact_float32,
    image_sides,
    memory_explained,
    single_precision,
    versions,
)
from .stimuli import Leaves, Stimuli, antithetic_batch, open_stimuli, scenes
from .targets import layer_targets
from .variants import parse_variant, view

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GROUPS: tuple[str, ...] = ("calls", "blocks", "stages")
"""What goes together as one unit: the calls of one module, of one block, or of one stage."""

COLUMNS = [
    *("model", "weights", "stimuli", "readout", "layer", "target"),
    *("kind", "unit", "function", "order", "keeps"),
    *("metric", "value", "low", "high", "effect", "effect_low", "effect_high"),
]
"""Columns of an attribution's table."""

ENOUGH = 0.8
"""Share of padding's whole effect from which a unit alone counts as enough."""

NEEDED = 0.2
"""Share of padding's whole effect that must be gone for a unit to count as needed."""

_NUMBERS = ("value", "low", "high", "effect", "effect_low", "effect_high")
_TABLE, _RECORD = "attribution.csv", "attribution.json"
_MOMENTS_BYTES = 2 * 2**30  # of float64 sums held at a time
_NAMED = 4  # units that a sentence names
_ITSELF = "(forward)"  # calls in the model's own code, outside all of its modules


@dataclass(frozen=True)
class Attribution:
    """Which padded calls and which sides put position into one layer.

    Attributes
    ----------
    table : DataFrame
        Tidy, one row per unit, ``keeps``, target and metric, with columns :data:`COLUMNS`.

        - ``kind``: ``call``, ``block`` or ``stage`` (a unit of the network), ``side`` (of the
          image), or ``network``;
        - ``unit``: path of a module, name of a side, or of the network's variant: ``original`` or
          ``circular``; ``function``: which of torch's functions pad there;
        - ``order``: rank within its kind, of units in order of execution;
        - ``keeps``: what keeps its padding: ``only`` the unit, ``all but`` it, ``all`` or ``none``;
        - ``value``, ``low``, ``high``: mean score over test images with its 95 % interval;
        - ``effect`` and its interval: the paired difference over the same images, for ``only`` and
          ``all`` score − circular's, for ``all but`` and ``none`` original's − score. Of ``mae``
          it is negative where padding helps.
    provenance : dict
        Options, origin and SHA-256 of the weights, versions, cautions, times; under ``cost`` how
        many module forwards an image took and how many more were played again.
    """

    table: pd.DataFrame
    provenance: dict[str, Any]

    def summary(self) -> list[str]:
        """Say in sentences which units are enough, which are needed, and which sides.

        A unit is enough if it alone brings :data:`ENOUGH` of padding's effect on the SPC, and
        needed if without it at least :data:`NEEDED` of that are gone and the interval of what is
        gone excludes 0.
        """
        targets = dict.fromkeys(self.table["target"])
        return [sentence for target in targets for sentence in _summary(self.table, target)]

    def plot(self, metric: str = "spc") -> Figure:
        """Plot what each unit and each side brings alone, and what is left without it.

        Parameters
        ----------
        metric : str
            ``spc``, ``mae`` or ``r2``.

        Returns
        -------
        matplotlib.figure.Figure
        """
        from .report.attribution import plot_attribution

        return plot_attribution(self.table, metric)

    def save(self, folder: str | Path) -> Path:
        """Write ``attribution.csv`` and ``attribution.json``, whole or not at all.

        Parameters
        ----------
        folder : str or Path
            Made if missing.

        Returns
        -------
        Path
            The folder.

        Raises
        ------
        ProbeError
            If it can't be written.
        """
        text = io.StringIO()
        self.table.to_csv(text, index=False)
        files = {_TABLE: text.getvalue().encode(), _RECORD: json_bytes(self.provenance)}
        write_files(Path(folder), files)
        return Path(folder)


def load_attribution(folder: str | Path) -> Attribution:
    """Read what :meth:`Attribution.save` wrote.

    Parameters
    ----------
    folder : str or Path
        Of ``attribution.csv`` and ``attribution.json``.

    Returns
    -------
    Attribution

    Raises
    ------
    ProbeError
        If the folder does not hold both, or they are something else.
    """
    folder = Path(folder)
    with reading(folder, "attribution"):
        record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        table = pd.read_csv(folder / _TABLE, dtype="str", keep_default_na=False)
        if list(table.columns) != COLUMNS or table.empty or not isinstance(record, dict):
            raise ValueError("its columns are not those of an attribution")
        for column in _NUMBERS:
            table[column] = [float(text) if text else float("nan") for text in table[column]]
        return Attribution(table.astype({"order": "int64"}), record)


def attribute(
    model: str | nn.Module,
    layer: str,
    target: str | Sequence[str] = "vertical",
    *,
    weights: str | Path = "pretrained",
    groups: str = "calls",
    stimuli: str | Path | Tensor | Stimuli = "leaves",
    train_images: int = 128,
    test_images: int = 64,
    image_size: int | tuple[int, int] | None = None,
    batch_size: int = 32,
    seed: int = 0,
    device: str | torch.device = "auto",
    progress: bool = True,
    name: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    share: bool = True,
) -> Attribution:
    """Find out which padded calls, and which sides of the image, put position into a layer.

    For each padded call that runs before the layer has fired, a ridge readout is fitted and scored
    with the padding of this call alone, all others being circular, and with that of all others;
    the same for the four sides of the image, for the network as trained and without padding.

    Each pass ends where the layer has fired. What comes before a call is the same as in the pass
    as trained or in the circular one, and is not computed again: outputs of modules are kept for
    one batch and played again, where one image has shown that the result stays the same, bit for
    bit. The model comes back as it was.

    Parameters
    ----------
    model : str or Module
        A timm name, or any module that maps images (B, 3, H, W).
    layer : str
        Name of the module whose output is probed.
    target : str or sequence of str
        Any of :data:`probe.TARGETS`.
    weights : str or Path
        ``pretrained``, ``random``, or the path of a checkpoint; a module's own are ``given``.
    groups : str
        What goes together as one unit: ``calls`` (the padded calls of one module), ``blocks`` (of
        one block, see :func:`probe.layers.choose_layers`; calls outside any block stay apart) or
        ``stages`` (all that run after one stage of timm's ``feature_info`` ended, until the next
        one, whose name they have).
    stimuli : str, Path, Tensor or Stimuli
        As in :func:`probe.run`. Circular padding removes position only on images that tile.
    train_images, test_images : int
        How many images to fit each readout on (at least 2) and to score it on.
    image_size : int or (int, int), optional
        Pixels; by default as in :func:`probe.run`.
    batch_size : int
        Images per forward pass; memory for kept outputs grows with it.
    seed : int
        Of random weights, images and bootstrap.
    device : str or torch.device
        ``auto``: CUDA where there is one, else the CPU; a module stays where it is.
    progress : bool
        Show a bar.
    name : str, optional
        What to call the model.
    mean, std : sequence of 3 float, optional
        Its normalisation, if not what timm's config says (a module without one: 0 and 1).
    share : bool
        Whether to play outputs again; without, the same numbers take longer.

    Returns
    -------
    Attribution

    Raises
    ------
    ProbeError
        If something asked for does not exist or doesn't fit, or if no padded call runs before the
        layer has fired.

    Examples
    --------
    >>> found = probe.attribute("tf_efficientnet_lite0", "blocks.5", "vertical")
    >>> found.summary()
    >>> found.table.query("kind == 'call' and keeps == 'only' and metric == 'spc'")
    """
    started, clock = datetime.datetime.now(datetime.UTC), time.perf_counter()
    one_of(groups, GROUPS, "groups")
    _, targets = check_options(
        "circular", target, "ridge", train_images, test_images, batch_size, seed
    )
    if isinstance(model, nn.Module):
        weights = "given" if weights == "pretrained" else weights
    elif not isinstance(model, str):
        raise ProbeError(f"model: expected a timm name or a torch module, got {model!r}")
    if not isinstance(weights, str | Path):
        raise ProbeError(
            f"weights: expected 'pretrained', 'random' or the path of a checkpoint, got {weights!r}"
        )
    size = image_sides(image_size)
    if isinstance(stimuli, Tensor | np.ndarray) and size is None and stimuli.ndim == 4:
        size = (int(stimuli.shape[2]), int(stimuli.shape[3]))
    elif isinstance(stimuli, Stimuli) and size is None:
        size = stimuli.image_size
    if isinstance(model, str):
        known_model(model)
    pick_device(device)
    shares = {"train_images": train_images, "test_images": test_images}
    open_stimuli(stimuli, size or (32, 32), seed, **shares)  # before a long download of weights
    named = {"seed": seed, "device": device, "name": name, "mean": mean, "std": std}
    backbone = load_backbone(model, weights, image_size=size, **named)
    stride = total_stride(backbone.model)
    size = size or input_size(backbone.config, stride)
    source = open_stimuli(stimuli, size, seed, **shares)

    with ExitStack() as stack:
        stack.enter_context(exact_float32())
        stack.enter_context(evaluating(backbone.model))
        images = Leaves(size, seed).batch("certificate", 0, 1)
        with memory_explained(1):
            taps = tap(backbone.model, _one_layer(backbone, layer), backbone.normalise(images))
            units, runs = _units(backbone, taps, images, groups)
            close = view(backbone, parse_variant("circular"), taps, images).close
        network = _Network(backbone, taps, batch_size)
        conditions = _conditions(units, groups[:-1], close)
        if share:
            with memory_explained(1):
                _share(network, conditions, units, runs, images)
        cautions = _cautions(source, stride, targets, network.layer, test_images)
        for message in cautions:
            warnings.warn(message, ProbeWarning, stacklevel=2)
        bar = tqdm(
            total=(train_images + test_images) * len(conditions),
            desc=f"{backbone.name}, {network.layer.name}",
            unit="img",
            disable=not progress,
            dynamic_ncols=True,
        )
        stack.enter_context(bar)
        channels, (rows, columns) = network.layer.channels, network.layer.places
        together = max(1, _MOMENTS_BYTES // (FOLDS * 8 * channels * (channels + rows * columns)))
        for first in range(0, len(conditions), together):
            part = conditions[first : first + together]
            _train(network, part, partial(source.batch, "train"), train_images, bar)
            for condition in part:
                condition.solve(targets)
            test = partial(antithetic_batch, source, stride=stride)
            _test(network, part, test, test_images, bar)

    for message in source.cautions:  # known once the images were read
        cautions.append(message)
        warnings.warn(message, ProbeWarning, stacklevel=2)
    table = _table(conditions, targets, scenes(source, test_images), seed).assign(
        model=backbone.name,
        weights=backbone.weights,
        stimuli=source.name,
        readout=Ridge.name,
        layer=network.layer.name,
    )[COLUMNS]
    per_image = len(_leaves(backbone.model, runs))
    provenance = {
        "name": backbone.name,
        "module": isinstance(model, nn.Module),
        "named_stimuli": isinstance(stimuli, str | Path),
        "options": {
            "model": model if isinstance(model, str) else type(model).__name__,
            "layer": network.layer.name,
            "target": targets,
            "weights": str(weights),
            "groups": groups,
            "stimuli": source.name,
            **shares,
            "image_size": list(size),
            "batch_size": batch_size,
            "seed": seed,
            "device": str(device),
            "name": name,
            "mean": None if mean is None else list(backbone.mean),
            "std": None if std is None else list(backbone.std),
        },
        "backbone": {
            "weights": backbone.weights,
            "source": backbone.source,
            "sha256": backbone.sha256,
            "mean": list(backbone.mean),
            "std": list(backbone.std),
        },
        "stimuli": {
            "name": source.name,
            "tileable": source.tileable,
            "stationary": source.stationary,
            "skipped": source.skipped,
        },
        "entry": taps.entry,
        "cost": {
            "conditions": len(conditions),
            "module_forwards": per_image * len(conditions) - sum(c.saved for c in conditions),
            "shared_forwards": sum(c.saved for c in conditions),
        },
        "warnings": cautions,
        "device": device_name(backbone.device),
        "versions": versions(),
        "started": started.isoformat(timespec="seconds"),
        "seconds": round(time.perf_counter() - clock, 1),
    }
    return Attribution(table, provenance)


def _one_layer(backbone: Backbone, layer: str) -> str:
    found = [layer]
    if isinstance(layer, str):
        found, _ = choose_layers(backbone.model, layer, backbone.name)
    if not isinstance(layer, str) or len(found) != 1:
        what = f"which stands for {len(found)}" if isinstance(layer, str) else "no name"
        raise ProbeError(f"layer: expected the name of one module, got {layer!r}, {what}")
    return found[0]


def _cautions(
    source: Stimuli, stride: int, targets: Sequence[str], layer: Layer, test_images: int
) -> list[str]:
    """What a reader of the table should know before reading it."""
    found = []
    if not source.tileable:
        found.append(
            f"circular padding on stimuli that do not tile ({source.name}): the seam where "
            "opposite borders meet is itself a landmark, so that calls without padding of their "
            "own put position there, too; use tileable stimuli such as leaves"
        )
    if any(pixels % stride for pixels in source.image_size):
        found.append(
            f"images of {source.image_size[0]} × {source.image_size[1]} pixels are no multiple of "
            f"the network's stride of {stride}: the torus of some layer does not close, and "
            "circular padding leaves position behind"
        )
    if len(np.unique(scenes(source, test_images))) == 1:
        found.append(
            f"the {test_images} test images show one scene, which gives no interval: low and high "
            "are NaN"
        )
    maps = layer_targets(targets, layer.image_size, layer.rows, layer.columns)
    flat = [t for t, values in zip(targets, maps, strict=True) if np.ptp(values) < 1e-9]
    if flat:
        found.append(
            f"at {layer.name} the target {', '.join(flat)} is the same at every place: its scores "
            "there are 0 by definition; choose a larger image size"
        )
    return found


# ---------------------------------------------------------------- units


@dataclass(frozen=True)
class _Unit:
    """Padded calls that keep or lose their padding together."""

    name: str
    modules: frozenset[str]  # that make them
    functions: tuple[str, ...]
    start: int  # tick of the first of them


_Runs = dict[str, int]
"""By module, the tick at which it returned one tensor, its only run before the layer fired."""


def _units(
    backbone: Backbone, taps: Taps, images: Tensor, groups: str
) -> tuple[list[_Unit], _Runs]:
    """Watch one pass as trained: the units before the layer, and what may be played again."""
    model, layer = backbone.model, taps.layers[0].name
    clock = itertools.count()
    seen: list[tuple[int, Call]] = []
    ended: dict[str, list[tuple[int, bool]]] = {}

    def note(call: Call) -> bool:
        seen.append((next(clock), call))
        return True

    def end(name: str, output: Any) -> None:
        ended.setdefault(name, []).append((next(clock), isinstance(output, Tensor)))

    x = backbone.normalise(images).contiguous(memory_format=taps.memory_format)
    names = [name for name, _ in model.named_modules() if name]
    with hooked(model, names, end), padding("original", note) as mode:
        getattr(model, taps.entry)(x)
    fired = ended[layer][0][0]
    padded = {key[:2] for key in mode.padded[["module", "function"]].itertuples(index=False)}
    calls = [(t, c) for t, c in seen if t < fired and (str(c), c.function) in padded]
    if not calls:
        raise ProbeError(
            f"no padded call runs before layer {layer!r} of {backbone.name} has fired: there is "
            "nothing to attribute; choose a later layer (scripted and traced modules hide their "
            "calls)"
        )
    unit_of = _grouping(backbone, groups, ended)
    found: dict[str, list[tuple[int, Call]]] = {}
    home: dict[str, str] = {}  # the calls of one module stay together
    for tick, call in calls:
        home.setdefault(str(call), unit_of(tick, call))
        found.setdefault(home[str(call)], []).append((tick, call))
    units = [
        _Unit(
            name,
            frozenset(str(call) for _, call in mine),
            tuple(dict.fromkeys(call.function for _, call in mine)),
            mine[0][0],
        )
        for name, mine in found.items()
    ]
    runs = {
        name: mine[0][0]
        for name, times in ended.items()
        if len(mine := [t for t in times if t[0] < fired]) == 1 and mine[0][1]
    }
    return units, runs


def _grouping(
    backbone: Backbone, groups: str, ended: Mapping[str, Sequence[tuple[int, bool]]]
) -> Callable[[int, Call], str]:
    """How a call at some tick finds the unit that it belongs to."""
    named = [] if groups == "calls" else choose_layers(backbone.model, groups, backbone.name)[0]
    if groups == "stages":
        ends = sorted((ended[name][-1][0], name) for name in named if name in ended)
        return lambda tick, call: next((name for t, name in ends if t > tick), call or _ITSELF)
    blocks = sorted(named, key=len, reverse=True)
    return lambda tick, call: next(
        (b for b in blocks if f"{call}.".startswith(f"{b}.")), str(call) or _ITSELF
    )


# ---------------------------------------------------------------- conditions


@dataclass(eq=False)
class _Condition:
    """One way to keep some padding, on its way through the two passes."""

    kind: str
    unit: str
    order: int
    keeps: str
    border: Callable[[], AbstractContextManager[Any]]
    function: str = ""
    base: _Condition | None = None  # what it is the same as before ``start``
    start: int = 0
    replayed: frozenset[str] = frozenset()  # modules that do not run
    needed: frozenset[str] = frozenset()  # those of them whose output something reads
    saved: int = 0  # modules without children among all those
    layer: Layer | None = None
    readout: Ridge = field(default_factory=Ridge)
    truth: NDArray[np.float64] | None = None
    values: list[NDArray[np.float64]] = field(default_factory=list)  # (B, T, metrics) by batch

    def solve(self, targets: Sequence[str]) -> None:
        layer = self.layer
        truth = layer_targets(targets, layer.image_size, layer.rows, layer.columns)
        self.truth = truth.reshape(len(targets), -1)
        self.readout.solve(truth)


def _conditions(units: Sequence[_Unit], kind: str, close: bool) -> list[_Condition]:
    def circular(**options: Any) -> Callable[[], AbstractContextManager[Any]]:
        return lambda: padding("circular", close=close, **options)

    original = _Condition("network", "original", 1, "all", nullcontext)
    bare = _Condition("network", "circular", 2, "none", circular())
    only, all_but = [], []
    for order, unit in enumerate(units, 1):
        mine = {"function": ", ".join(unit.functions), "start": unit.start}

        def inside(call: Call, modules: Collection[str] = unit.modules) -> bool:
            return call in modules

        def outside(call: Call, modules: Collection[str] = unit.modules) -> bool:
            return call not in modules

        named = (kind, unit.name, order)
        only.append(_Condition(*named, "only", circular(where=outside), base=bare, **mine))
        all_but.append(_Condition(*named, "all but", circular(where=inside), base=original, **mine))
    found = [original, bare, *only, *all_but]
    for order, side in enumerate(SIDES, 1):
        others = tuple(s for s in SIDES if s != side)
        found += [
            _Condition("side", side, order, "only", circular(sides=others)),
            _Condition("side", side, order, "all but", circular(sides=side)),
        ]
    return found


# ---------------------------------------------------------------- the passes


class _Reached(Exception):
    """The layer has fired: nothing after it matters."""


class _Network:
    """A backbone up to one layer."""

    def __init__(self, backbone: Backbone, taps: Taps, batch_size: int) -> None:
        self.backbone, self.taps, self.batch_size = backbone, taps, batch_size
        self.layer = taps.layers[0]

    def run(
        self,
        images: Tensor,
        border: Callable[[], AbstractContextManager[Any]],
        keep: Collection[str] = (),
        play: Mapping[str, Callable[[], Tensor]] | None = None,
        watch: AbstractContextManager[Any] | None = None,
    ) -> tuple[Any, dict[str, Tensor]]:
        """Run until the layer has fired.

        Parameters
        ----------
        images : Tensor, shape (B, 3, H, W)
            In [0, 1].
        border : callable
            Makes the context to run in.
        keep : collection of str
            Modules whose outputs to keep.
        play : mapping of str to callable
            Modules not to run, and what gives their outputs instead.
        watch : context manager, optional
            Entered last.

        Returns
        -------
        output : Any
            What the layer returned.
        kept : dict of str to Tensor
        """
        model, layer = self.backbone.model, self.layer.name
        kept: dict[str, Tensor] = {}
        found: list[Any] = []

        def take(name: str, output: Any) -> None:
            if name == layer:
                found.append(output)
                raise _Reached
            kept[name] = output.clone()  # modules after it may write into it

        x = self.backbone.normalise(images).contiguous(memory_format=self.taps.memory_format)
        try:
            with (
                hooked(model, dict.fromkeys([*keep, layer]), take),
                _played(model, play or {}),
                border(),
                watch or nullcontext(),
            ):
                getattr(model, self.taps.entry)(x)
        except _Reached:
            return found[0], kept
        raise ProbeError(f"layer {layer!r} of {self.backbone.name} did not run")

    def features(self, condition: _Condition, output: Any, count: int) -> Tensor:
        """See the layer's output as places (B, C, h, w); learn its size the first time."""
        if condition.layer is None:
            condition.layer = self.layer
            shape = tuple(first_tensor(output, count).shape)
            usual = (self.layer.channels, self.layer.height, self.layer.width)
            if self.layer.layout != "NCHW" or shape[1:] != usual:
                size = self.layer.image_size
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", ProbeWarning)  # tap has said it
                    seen = describe(self.backbone.model, self.layer.name, 1, shape, count, size)
                if seen is None or max(seen.places) == 1:
                    raise ProbeError(
                        f"layer {self.layer.name!r} of {self.backbone.name} can't be probed with "
                        f"padding kept in {condition.keeps} {condition.unit}: it returns a tensor "
                        f"of shape {shape}; choose a larger image size or another layer"
                    )
                condition.layer = seen
        layer = condition.layer
        features = layer.reduce(single_precision(layer.canonical(output, count)))
        if not bool(torch.isfinite(features).all()):
            raise ProbeError(
                f"features are not finite (NaN or infinity) at layer {layer.name} of "
                f"{self.backbone.name}: check the weights, or choose an earlier layer"
            )
        return features

    def stream(
        self,
        conditions: Sequence[_Condition],
        batch: Callable[[int, int], Tensor],
        count: int,
        bar: tqdm,
        receive: Callable[[_Condition, Tensor, int], None],
    ) -> None:
        """Run every batch through every condition; hand over the layer's features.

        The conditions that share a base come together, so that the kept outputs of one base are
        held at a time.
        """
        network = [c for c in conditions if c.kind == "network"]
        bases = dict.fromkeys([*network, *_bases(conditions)])
        for start in range(0, count, self.batch_size):
            stop = min(start + self.batch_size, count)
            with memory_explained(stop - start):
                images = batch(start, stop)
                for base in (*bases, None):
                    mine = [c for c in conditions if c.base is base and c not in bases]
                    kept: dict[str, Tensor] = {}
                    keep = frozenset().union(*(c.needed for c in mine))
                    if base is not None and (base in conditions or keep):
                        output, kept = self.run(images, base.border, keep)
                        if base in conditions:
                            mine.insert(0, base)
                    for condition in mine:
                        if condition is not base:
                            play = _plays(condition.replayed, condition.needed, kept)
                            output, _ = self.run(images, condition.border, play=play)
                        receive(condition, self.features(condition, output, stop - start), start)
                        bar.update(stop - start)


def _bases(conditions: Sequence[_Condition]) -> Iterator[_Condition]:
    return (c.base for c in conditions if c.base is not None)


def _plays(
    replayed: Collection[str], needed: Collection[str], kept: Mapping[str, Tensor]
) -> dict[str, Callable[[], Tensor]]:
    """What gives the outputs of modules that do not run; nothing looks at those not needed."""
    nothing = torch.empty(0)
    return {name: kept[name].clone if name in needed else lambda: nothing for name in replayed}


@contextmanager
def _played(model: nn.Module, play: Mapping[str, Callable[[], Tensor]]) -> Iterator[None]:
    """Have modules return what is given instead of running, inside the block."""
    before: list[tuple[nn.Module, Any]] = []

    def instead(give: Callable[[], Tensor]) -> Callable[..., Tensor]:
        return lambda *_args, **_kwargs: give()

    try:
        for name, give in play.items():
            module = model.get_submodule(name)
            before.append((module, module.__dict__.get("forward")))
            module.forward = instead(give)
        yield
    finally:
        for module, own in before:
            if own is None:
                del module.forward
            else:
                module.forward = own


def _train(
    network: _Network,
    conditions: Sequence[_Condition],
    batch: Callable[[int, int], Tensor],
    count: int,
    bar: tqdm,
) -> None:
    folds = min(FOLDS, count)
    bounds = [fold * count // folds for fold in range(folds + 1)]

    def receive(condition: _Condition, features: Tensor, start: int) -> None:
        for fold, (first, last) in enumerate(itertools.pairwise(bounds)):
            mine = features[max(first - start, 0) : max(last - start, 0)]
            if len(mine):
                condition.readout.partial_fit(mine, fold)

    network.stream(conditions, batch, count, bar, receive)


def _test(
    network: _Network,
    conditions: Sequence[_Condition],
    batch: Callable[[int, int], Tensor],
    count: int,
    bar: tqdm,
) -> None:
    def receive(condition: _Condition, features: Tensor, start: int) -> None:
        predictions = condition.readout.predict(features).flatten(2).cpu().numpy()
        by_metric = scores.per_image(predictions, condition.truth)
        condition.values.append(np.stack([by_metric[m] for m in scores.METRICS], -1))

    network.stream(conditions, batch, count, bar, receive)


# ---------------------------------------------------------------- what need not run again


def _share(
    network: _Network,
    conditions: Sequence[_Condition],
    units: Sequence[_Unit],
    runs: _Runs,
    images: Tensor,
) -> None:
    """Find out for each condition what can be played again, and prove it on an image."""
    model = network.backbone.model
    chosen = _replayable(model, runs, units)
    read: dict[int, frozenset[str]] = {}
    for base in dict.fromkeys(_bases(conditions)):
        _, kept = network.run(images, base.border, chosen)
        for condition in (c for c in conditions if c.base is base):
            replayed = _outermost([n for n in chosen if runs[n] < condition.start])
            try:
                if condition.start not in read:  # the same with either base
                    reads = _Reads()
                    watched = {name: partial(reads.give, name, kept[name]) for name in replayed}
                    network.run(images, condition.border, play=watched, watch=reads)
                    read[condition.start] = frozenset(reads.found)
                needed = read[condition.start]
                play = _plays(replayed, needed, kept)
                output, _ = network.run(images, condition.border, play=play)
            except Exception:  # whatever a module raises that misses what another left for it
                continue
            expected, _ = network.run(images, condition.border)
            if torch.equal(first_tensor(output, 1), first_tensor(expected, 1)):
                condition.replayed, condition.needed = replayed, needed
                condition.saved = len(_leaves(model, runs, replayed))


def _replayable(model: nn.Module, runs: _Runs, units: Sequence[_Unit]) -> list[str]:
    """Modules whose outputs are worth keeping.

    Those of the whole network, and those inside a module that holds calls of several units or
    can't be played again itself.
    """
    found: list[str] = []

    def walk(module: nn.Module, prefix: str) -> None:
        for key, child in module.named_children():
            name = f"{prefix}{key}"
            plays = name in runs and not isinstance(child, torch.jit.ScriptModule)
            if plays:
                found.append(name)
            inside = sum(any(f"{m}.".startswith(f"{name}.") for m in u.modules) for u in units)
            if inside > 1 or not plays:
                walk(child, f"{name}.")

    walk(model, "")
    return found


def _outermost(names: Collection[str]) -> frozenset[str]:
    """Leave out modules inside others."""
    return frozenset(n for n in names if not any(n.startswith(f"{other}.") for other in names))


def _leaves(model: nn.Module, runs: _Runs, within: Collection[str] | None = None) -> list[str]:
    """Modules without children that run before the layer has fired."""
    leaves = [n for n in runs if not any(True for _ in model.get_submodule(n).children())]
    if within is None:
        return leaves
    return [n for n in leaves if any(f"{n}.".startswith(f"{other}.") for other in within)]


class _Reads(TorchFunctionMode):
    """Finds out which of the tensors that it gave some operation looks at."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()
        self._given = WeakIdKeyDictionary()

    def give(self, name: str, tensor: Tensor) -> Tensor:
        copy = tensor.clone()
        self._given[copy] = name
        return copy

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        for tensor in all_tensors((args, kwargs)):
            if tensor in self._given:
                self.found.add(self._given[tensor])
        return func(*args, **kwargs)


# ---------------------------------------------------------------- numbers and words


def _table(
    conditions: Sequence[_Condition],
    targets: Sequence[str],
    numbers: NDArray[np.int64],
    seed: int,
) -> pd.DataFrame:
    """One row for each condition, target and metric."""
    original, bare = conditions[:2]
    # Images, conditions, targets, metrics.
    values = np.stack([np.concatenate(c.values) for c in conditions], 1)
    more = np.array([c.keeps in ("only", "all") for c in conditions])[:, None, None]
    all_of_it, none = (values[:, [conditions.index(c)]] for c in (original, bare))
    effects = np.where(more, values - none, all_of_it - values)
    columns = {}
    for name, numbers_by_image, bounds in (
        ("value", values, ("low", "high")),
        ("effect", effects, ("effect_low", "effect_high")),
    ):
        columns[name] = numbers_by_image.mean(0).ravel()
        found = scores.bootstrap_interval(numbers_by_image, seed, scenes=numbers)
        columns |= dict(zip(bounds, map(np.ravel, found), strict=True))
    rows = [
        (c.kind, c.unit, c.function, c.order, c.keeps, t, m)
        for c in conditions
        for t in targets
        for m in scores.METRICS
    ]
    names = ["kind", "unit", "function", "order", "keeps", "target", "metric"]
    table = pd.DataFrame(rows, columns=names).assign(**columns)
    kinds = list(dict.fromkeys(table["kind"]))
    return table.sort_values(
        ["kind", "order"],
        key=lambda column: column.map(kinds.index) if column.name == "kind" else column,
        kind="stable",
        ignore_index=True,
    )


def _summary(table: pd.DataFrame, target: str) -> list[str]:
    rows = table[(table["metric"] == "spc") & (table["target"] == target)]
    network = rows[rows["kind"] == "network"].set_index("unit")
    whole, bare = network.loc["original"], network.loc["circular"]
    layer, knowledge = whole["layer"], KNOWLEDGE[target]
    sentences = [
        f"Layer {layer} of {whole['model']} ({short_name(whole['weights'])} weights): SPC for "
        f"{knowledge} is {_score(whole)} as trained, {_score(bare)} without padding."
    ]
    effect = float(whole["effect"])
    if not effect > 0 or whole["effect_low"] <= 0:
        return [*sentences, f"Padding makes no clear difference to {knowledge} there."]
    units = rows[~rows["kind"].isin(("network", "side"))]
    alone = units[units["keeps"] == "only"].sort_values("effect", ascending=False)
    without = units[units["keeps"] == "all but"].sort_values("effect", ascending=False)
    noun, count = alone["kind"].iloc[0], len(alone)
    enough = alone[alone["effect"] >= ENOUGH * effect]
    if len(enough):
        one = len(enough) == 1
        sentences.append(
            f"{len(enough)} of {_counted(count, noun)} {'is' if one else 'are'} enough alone "
            f"(at least {ENOUGH:.0%} of the effect): {_listed(enough)}."
        )
    else:
        sentences.append(
            f"None of {_counted(count, noun)} is enough alone (at least {ENOUGH:.0%} of the "
            f"effect); the most comes from {_listed(alone[:1])}."
        )
    needed = without[(without["effect"] >= NEEDED * effect) & (without["effect_low"] > 0)]
    if len(needed):
        sentences.append(
            f"{len(needed)} of {_counted(count, noun)} {'is' if len(needed) == 1 else 'are'} "
            f"needed (at least {NEEDED:.0%} are gone without): without {_listed(needed)}."
        )
    else:
        shown = "" if without["effect"].max() < NEEDED * effect else "shown to be "
        sentences.append(
            f"None of {_counted(count, noun)} is {shown}needed: without any one of them, SPC is "
            f"{_score(without.iloc[0])} or more."
        )
    sides = rows[rows["kind"] == "side"]
    for keeps, words in (("only", "The padding of one side alone"), ("all but", "Without it")):
        mine = sides[sides["keeps"] == keeps]
        listed = ", ".join(f"{r['unit']} {_score(r)}" for _, r in mine.iterrows())
        sentences.append(f"{words}: {listed}.")
    return sentences


def _score(row: pd.Series) -> str:
    return interval(float(row["value"]), float(row["low"]), float(row["high"]))


def _listed(rows: pd.DataFrame) -> str:
    named = [f"{row['unit']} (SPC {_score(row)})" for _, row in rows[:_NAMED].iterrows()]
    more = f" and {len(rows) - _NAMED} more" if len(rows) > _NAMED else ""
    return ", ".join(named) + more


def _counted(number: int, noun: str) -> str:
    return f"{number} padded {noun}{'' if number == 1 else 's'}"
