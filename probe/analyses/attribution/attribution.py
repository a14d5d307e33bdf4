"""Attribution: which padded calls, and which sides of the image, put position into a layer.

For every padded call in the layer's reach there are two questions: what does a readout find when
*only* this call keeps its padding, and what when *all but* this call do? The others are circular,
so that they leave nothing on images that tile.

Everything before a call is the same in all of these passes as in the pass without padding (*only*)
or as trained (*all but*): there, the outputs of modules are kept for the length of a batch and
played again.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

import pandas as pd
from matplotlib.figure import Figure
from torch import Tensor, nn

from ...errors import ProbeError, ProbeWarning, one_of
from ...files import json_bytes, write_files
from ...machine import memory_explained
from ...records.attribution import (
    COLUMNS,
    RECORD_FILE,
    TABLE_FILE,
    attribution_summary,
    read_attribution,
)
from ...report.figures.attribution import plot_attribution
from ...runner.job import Condition, Job, groups_that_fit
from ...runner.options import Options, SharedGiven, takes_options
from ...runner.passes import measure
from ...runner.rows import find_cautions
from ...runner.setup import Opened, one_weights, opened, weights_record
from ...variants.run import open_variant
from ...variants.variant import parse_variant
from ..names import GROUPS
from .replay import ReplayedNetwork, leaf_modules, open_runs
from .sources import plan_sources
from .summary import effect_table
from .units import Kept, find_units

_SEAM = (
    "so that calls without padding of their own put position there, too; use tileable stimuli such "
    "as leaves"
)


@dataclass(frozen=True)
class Attribution:
    """Which padded calls and which sides put position into one layer.

    Attributes
    ----------
    table : DataFrame
        Tidy, one row per unit, ``keeps``, target and metric, with columns :data:`COLUMNS`.

        - ``kind``: ``call``, ``block`` or ``stage`` (a unit of the network), ``source`` (a kind of
          them), ``side`` (of the image), or ``network``;
        - ``unit``: path of a module, name of a side, or of the network's variant: ``original`` or
          ``circular`` (of sources ``no_position``); ``function``: which of torch's functions pad
          there, or what takes the source away;
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
        return attribution_summary(self.table)

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
        files = {TABLE_FILE: text.getvalue().encode(), RECORD_FILE: json_bytes(self.provenance)}
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
    return Attribution(*read_attribution(folder))


@takes_options(
    *("stimuli", "train_images", "test_images", "image_size", "batch_size", "seed", "device"),
    *("progress", "name", "mean", "std", "forward_kwargs"),
    train_images=128,
)
def attribute(
    model: str | nn.Module,
    layer: str,
    target: str | Sequence[str] = "vertical",
    *,
    weights: str | Path = "pretrained",
    groups: str = "calls",
    share: bool = True,
    **options: Unpack[SharedGiven],
) -> Attribution:
    """Find out which padded calls, and which sides of the image, put position into a layer.

    For each padded call that runs before the layer has fired, a ridge readout is fitted and scored
    with the padding of this call alone, all others being circular, and with that of all others;
    the same for the four sides of the image, for the network as trained and without padding.

    Each pass ends where the layer has fired. What comes before a call is the same as in the pass
    as trained or in the circular one, and is not computed again: outputs of modules are kept for
    one batch and played again, where one image has shown that the result stays the same, bit for
    bit. The model comes back as it was. Circular padding removes position only on images that tile.

    Parameters
    ----------
    model : str or Module
        A timm name, or any module that maps images (B, C, H, W).
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
        one did or the layer fired; their name says which modules they are in), ``sources`` (each
        kind that :func:`probe.sources` finds, padding among them, wherever in the network; see
        :data:`probe.VARIANTS` for how each is taken away).
    share : bool
        Whether to play outputs again; without, the same numbers take longer.
    {options}

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
    one_of(groups, GROUPS, "groups")
    if not isinstance(layer, str):
        raise ProbeError(f"layer: expected the name of one module, got {layer!r}")
    chosen = Options.of(
        options,
        weights=one_weights(model, weights),
        variants="circular",
        layers=layer,
        targets=target,
    )
    with opened(model, chosen) as setup:
        source, images = setup.stimuli, setup.leaves[:1]
        backbone, taps = setup.first, setup.probed
        if len(taps.layers) != 1:
            raise ProbeError(
                f"layer: expected the name of one module, got {layer!r}, which stands for "
                f"{len(taps.layers)}"
            )
        job = replace(setup.job(), controls=False)
        if groups == "sources":
            passes = _source_passes(setup, job)
        else:
            passes = _padding_passes(setup, job, groups, share, images)
        conditions = list({id(c): c for c in passes.conditions}.values())
        cautions = [*find_cautions(job, conditions, _SEAM), *passes.cautions]
        for message in cautions:
            warnings.warn(message, ProbeWarning, stacklevel=3)
        with setup.bar(len(conditions), f"{backbone.name}, {taps.layers[0].name}") as bar:
            for group in groups_that_fit(job, conditions):
                measure(job, group, bar)
                for condition in group:
                    condition.sums.clear()
                    condition.predictions.clear()
    for message in source.cautions:  # known once the images were read
        cautions.append(message)
        warnings.warn(message, ProbeWarning, stacklevel=3)
    name = taps.layers[0].name
    scored = [condition.scored[name] for condition in passes.conditions]
    table = effect_table(passes.kept, scored, job.targets, job.scenes, job.seed).assign(
        model=backbone.name,
        weights=backbone.weights,
        stimuli=source.name,
        readout=job.head.label,
        layer=name,
    )[COLUMNS]
    provenance = setup.origin() | {
        "options": {
            **setup.recorded("model"),
            "layer": name,
            "target": job.targets,
            "weights": str(weights),
            "groups": groups,
            **setup.recorded(
                *("stimuli", "train_images", "test_images", "image_size", "batch_size", "seed"),
                *("device", "name", "mean", "std", "forward_kwargs"),
            ),
        },
        "backbone": weights_record(backbone),
        "cost": {"conditions": len(conditions), **passes.cost()},
        "warnings": setup.cautions + cautions,
    }
    return Attribution(table, provenance)


@dataclass(frozen=True)
class _Passes:
    """Rows of the table and the pass that each comes from; rows may share one."""

    kept: list[Kept]
    conditions: list[Condition]
    cost: Callable[[], dict[str, int]] = dict
    cautions: tuple[str, ...] = ()


def _padding_passes(setup: Opened, job: Job, groups: str, share: bool, images: Tensor) -> _Passes:
    backbone, probed = setup.first, setup.probed
    with memory_explained(1):
        units, runs = find_units(backbone, probed, images, groups)
        circular = open_variant(backbone, parse_variant("circular"), probed, images)
        network = ReplayedNetwork(backbone, probed)
        ends = groups[:-1], circular.wrap_unpadded, images, runs if share else {}
        planned = open_runs(network, units, *ends)

    def cost() -> dict[str, int]:
        shared = sum(run.saved for run in planned)
        forwards = len(leaf_modules(backbone.model, runs)) * len(planned)
        return {"module_forwards": forwards - shared, "shared_forwards": shared}

    conditions = [Condition.of(job, backbone, run) for run in planned]
    return _Passes([run.kept for run in planned], conditions, cost)


def _source_passes(setup: Opened, job: Job) -> _Passes:
    planned = plan_sources(setup)
    opened_once: dict[str, Condition] = {}
    for variant in planned.variants:
        if variant.name not in opened_once:
            opened_once[variant.name] = setup.condition(job, setup.first, variant)
    cautions: tuple[str, ...] = ()
    if planned.left:
        cautions = (
            f"nothing can take away {' and '.join(planned.left)}: what that gives a layer is in "
            "every score, also where all other sources are gone",
        )
    conditions = [opened_once[variant.name] for variant in planned.variants]
    return _Passes(planned.kept, conditions, cautions=cautions)
