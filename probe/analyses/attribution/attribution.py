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
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ...backbones.backbone import Backbone, input_size, load_backbone
from ...backbones.catalogue import known_model
from ...backbones.choice import choose_layers, total_stride
from ...backbones.layer import Layer
from ...backbones.probed import evaluating, probe_layers
from ...errors import ProbeError, ProbeWarning, one_of
from ...files import json_bytes, reading, write_files
from ...machine import device_name, exact_float32, memory_explained, pick_device, versions
from ...readouts.base import FOLDS
from ...readouts.ridge import Ridge
from ...runner.options import check_options, image_sides
from ...scores.metrics import METRICS, per_image
from ...stimuli.leaves import Leaves
from ...stimuli.opening import open_stimuli
from ...stimuli.scenes import antithetic_batch, scenes
from ...stimuli.source import Stimuli
from ...targets import layer_targets
from ...variants.run import open_variant
from ...variants.variant import parse_variant
from .replay import ReplayedCondition, ReplayedNetwork, leaf_modules, plan_conditions, share_outputs
from .summary import COLUMNS, NUMBER_COLUMNS, effect_table, target_sentences
from .units import GROUPS, find_units

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TABLE, _RECORD = "attribution.csv", "attribution.json"

_MOMENTS_BYTES = 2 * 2**30  # of float64 sums held at a time


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
        return [sentence for target in targets for sentence in target_sentences(self.table, target)]

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
        from .figure import plot_attribution

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
        for column in NUMBER_COLUMNS:
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
            taps = probe_layers(
                backbone.model, _one_layer(backbone, layer), backbone.normalise(images)
            )
            units, runs = find_units(backbone, taps, images, groups)
            close = open_variant(backbone, parse_variant("circular"), taps, images).close
        network = ReplayedNetwork(backbone, taps, batch_size)
        conditions = plan_conditions(units, groups[:-1], close)
        if share:
            with memory_explained(1):
                share_outputs(network, conditions, units, runs, images)
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
    table = effect_table(conditions, targets, scenes(source, test_images), seed).assign(
        model=backbone.name,
        weights=backbone.weights,
        stimuli=source.name,
        readout=Ridge.name,
        layer=network.layer.name,
    )[COLUMNS]
    per_image = len(leaf_modules(backbone.model, runs))
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


def _train(
    network: ReplayedNetwork,
    conditions: Sequence[ReplayedCondition],
    batch: Callable[[int, int], Tensor],
    count: int,
    bar: tqdm,
) -> None:
    folds = min(FOLDS, count)
    bounds = [fold * count // folds for fold in range(folds + 1)]

    def receive(condition: ReplayedCondition, features: Tensor, start: int) -> None:
        for fold, (first, last) in enumerate(itertools.pairwise(bounds)):
            mine = features[max(first - start, 0) : max(last - start, 0)]
            if len(mine):
                condition.readout.partial_fit(mine, fold)

    network.stream(conditions, batch, count, bar, receive)


def _test(
    network: ReplayedNetwork,
    conditions: Sequence[ReplayedCondition],
    batch: Callable[[int, int], Tensor],
    count: int,
    bar: tqdm,
) -> None:
    def receive(condition: ReplayedCondition, features: Tensor, start: int) -> None:
        predictions = condition.readout.predict(features).flatten(2).cpu().numpy()
        by_metric = per_image(predictions, condition.truth)
        condition.values.append(np.stack([by_metric[m] for m in METRICS], -1))

    network.stream(conditions, batch, count, bar, receive)
