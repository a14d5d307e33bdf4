"""Networks beside each other, from Python: tables, figures and paired differences."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import timm
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...backbones.catalogue import available
from ...errors import ProbeError, one_of
from ...files import plain
from ...report.figures.networks import plot_networks, plot_scatter
from ...results import Result
from ...scores.tables import as_dicts
from .accuracy import join_accuracy, read_accuracy
from .cells import family_of
from .curves import Curves, curves_of
from .page import network_name, targets_of
from .ranking import comparable, differences
from .schema import MODELS, in_schema
from .tables import summarise


class Compared:
    """What can be drawn and told of several networks.

    Attributes
    ----------
    table : DataFrame
        One row per score, see :data:`~probe.analyses.zoo.schema.SCORES`.
    models : DataFrame
        One row per network and weights, see :data:`~probe.analyses.zoo.schema.MODELS`.
    curves : mapping
        See :data:`~probe.analyses.zoo.curves.Curves`.
    """

    table: pd.DataFrame
    models: pd.DataFrame
    curves: Curves

    @property
    def targets(self) -> list[str]:
        """Targets that some network has scores of."""
        return targets_of(self.models)

    def _named(self) -> pd.DataFrame:
        """Models with the ``network`` that figures and tables call them."""
        names = [network_name(row["model"], row["weights"]) for row in as_dicts(self.models)]
        repeated = pd.Series(names).duplicated(keep=False)
        cells = self.models["cell"].astype(str)
        told = [c if r else n for n, c, r in zip(names, cells, repeated, strict=True)]
        return self.models.assign(network=told)

    def plot_layers(
        self,
        metric: str = "spc",
        targets: str | Sequence[str] | None = None,
        *,
        hue: str = "network",
        width: float | None = None,
        ax: Axes | None = None,
    ) -> Figure | Axes:
        """Plot the scores of all networks, as run first, by relative depth.

        ``hue`` is ``network`` or a column of the models, such as ``family`` or ``weights``; see
        :func:`probe.report.figures.networks.plot_networks`.
        """
        first = self.table.groupby("cell", sort=False)["variant"].transform("first")
        rows = self.table[self.table["variant"] == first]
        added = self._named().drop(
            columns=[c for c in rows.columns if c != "cell"], errors="ignore"
        )
        look: dict[str, Any] = {"hue": hue, "width": width, "ax": ax}
        return plot_networks(rows.merge(added, on="cell"), metric, targets, **look)

    def plot_scatter(
        self,
        x: str = "parameters",
        y: str | None = None,
        *,
        hue: str = "family",
        accuracy: str | Path | None = None,
        ax: Axes | None = None,
    ) -> Figure | Axes:
        """Plot one number of each network against another.

        ``x`` and ``y`` are columns of the models, ``y`` by default the best SPC of the first
        target; ``top1`` takes ``accuracy``, timm's ``results-imagenet.csv``. See
        :func:`probe.report.figures.networks.plot_scatter`.
        """
        models = self._named()
        if accuracy is not None:
            models, _ = join_accuracy(models, read_accuracy(accuracy))
        y = y or f"spc_{self._target(None)}"
        return plot_scatter(models[models["status"] == "finished"], x, y, hue=hue, ax=ax)

    def pairs(self, target: str | None = None) -> pd.DataFrame:
        """Differences of best SPC between all networks that may be compared, with intervals.

        Paired over test images where both saw the same ones.

        Parameters
        ----------
        target : str, optional
            Of what; the first by default.

        Returns
        -------
        DataFrame
            Columns ``a``, ``b``, ``target``, ``difference`` (a less b), ``low`` and ``high`` of
            its 95 % interval, and ``paired``; only networks of equal stimuli, rule of image
            sizes, readout, targets and version stand together.

        Raises
        ------
        ProbeError
            If there is no such target, or no two networks may be compared.
        """
        target = self._target(target)
        groups, words = comparable(self.models)
        names = self._named().set_index("cell")["network"]
        tables = []
        for number in range(len(words)):
            rows = self.models[(groups == number) & self.models[f"spc_{target}"].notna()]
            if len(rows) > 1:
                steps = list(itertools.combinations(range(len(rows)), 2))
                tables.append(differences(rows, target, self.curves, steps))
        if not tables:
            apart = f": they differ in {'; '.join(words[1:])}" if len(words) > 1 else ""
            raise ProbeError(f"no two networks may be compared{apart}")
        table = pd.concat(tables, ignore_index=True)
        return table.assign(a=table["a"].map(names), b=table["b"].map(names))

    def _target(self, target: str | None) -> str:
        if not self.targets:
            raise ProbeError("no network has finished: there is nothing to compare")
        return one_of(target or self.targets[0], self.targets, "target")


class Comparison(Compared):
    """Results beside each other, see :func:`compare`; each weights of a result is one row."""

    def __init__(self, results: Sequence[Result]) -> None:
        rows, tables, curves = [], [], dict[str, Any]()
        for result in results:
            for weights in dict.fromkeys(w for w, _ in result.conditions):
                part = _of_weights(result, weights)
                cell = _fresh(network_name(result.model, weights), curves)
                about = _about(part, weights, cell)
                rows.append(summarise(part, about))
                curves[cell] = curves_of(part.table, result.per_image)
                depth = part.table["depth"] / max(part.table["depth"].max(), 1)
                tables.append(part.table.assign(cell=cell, relative_depth=depth))
        known = pd.DataFrame(rows).drop(columns="schema")
        added = [name for name in known.columns if name not in MODELS]
        self.models = in_schema(known.reindex(columns=[*MODELS, *added]), "models")
        self.table = pd.concat(tables, ignore_index=True)
        self.curves = curves

    def __repr__(self) -> str:
        return f"<Comparison of {', '.join(self.models['cell'])}>"

    def _repr_html_(self) -> str:
        best = [f"spc_{target}" for target in self.targets]
        shown = self.models[["cell", *best, "localisation_error", "depth_known"]]
        return str(shown.to_html(index=False, float_format=lambda v: f"{v:.2f}", na_rep="–"))


def compare(results: Sequence[Result]) -> Comparison:
    """Lay results beside each other: two checkpoints of one model, or many networks.

    Parameters
    ----------
    results : sequence of Result
        What :func:`probe.run` or :func:`probe.load` returned; of each, every weights is a row.

    Returns
    -------
    Comparison
        With ``table``, ``models``, ``plot_layers``, ``plot_scatter`` and ``pairs``.

    Raises
    ------
    ProbeError
        If there are none, or something else is among them.

    Examples
    --------
    >>> early, late = (probe.run("resnet18", weights=w) for w in ("early.pth", "late.pth"))
    >>> both = probe.compare([early, late])
    >>> both.plot_layers(), both.pairs("vertical")
    """
    if isinstance(results, Result):
        results = [results]
    for result in results:
        if not isinstance(result, Result):
            raise ProbeError(
                f"results: expected what probe.run returns, got {type(result).__name__}"
            )
    if not results:
        raise ProbeError("results: expected at least one, got none")
    return Comparison(list(results))


def _of_weights(result: Result, weights: str) -> Result:
    """The part of a result that one of its weights has."""
    provenance = dict(result.provenance)
    provenance["backbones"] = [b for b in provenance["backbones"] if b["weights"] == weights]
    return dataclasses.replace(
        result,
        table=result.table[result.table["weights"] == weights],
        certificates={k: c for k, c in result.certificates.items() if k[0] == weights},
        provenance=provenance,
    )


def _fresh(name: str, taken: Mapping[str, Any]) -> str:
    """The name, numbered if another has it already."""
    numbers = itertools.count(2)
    fresh = name
    while fresh in taken:
        fresh = f"{name} ({next(numbers)})"
    return fresh


def _about(result: Result, weights: str, cell: str) -> dict[str, Any]:
    options = {k: v for k, v in result.provenance["options"].items() if k not in ("model", "name")}
    if _is_own_size(result.model, options["image_size"]):
        options["image_size"] = None
    return {
        "cell": cell,
        "model": result.model,
        "weights": weights,
        "family": family_of(result.model),
        "options": json.dumps(plain(options), sort_keys=True),
    }


@functools.cache
def _sizes(model: str) -> tuple[int, ...]:
    known = available(model.partition(".")[0])
    return tuple(int(size) for size in known["image_size"])


def _is_own_size(model: str, size: Sequence[int]) -> bool:
    """Whether it is the size that timm has for a model, rounded up to its strides."""
    if not timm.is_model(model.partition(".")[0]):
        return False
    return any(all(0 <= side - own < 32 for side in size) for own in _sizes(model))
