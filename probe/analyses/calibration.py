"""Calibration: how often the intervals say that there is position where there is none.

On a torus, with tileable and stationary stimuli and circular padding everywhere, a convolutional
network is translation equivariant: the expected SPC of any readout is exactly 0. Of 95 % intervals
5 % should exclude it. Running the pipeline again and again, with other images each time, measures
the share that do. Planted truth, features of known signal-to-noise ratio, measures the opposite:
whether position that is there is found in the right amount.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import pandas as pd
from scipy import stats
from torch import nn
from tqdm.auto import tqdm

from ..certificates.prepare import prepare
from ..errors import ProbeError, whole_number
from ..files import json_bytes, plain, reading, write_files
from ..machine import versions
from ..runner.job import INPUT, Condition, Job
from ..runner.options import Options, SharedGiven, takes_options
from ..runner.passes import fit, score, test, train
from ..runner.setup import one_weights, opened
from ..scores.intervals import bootstrap_share
from ..scores.tables import score_rows
from ..stimuli.leaves import Leaves
from ..text import number_text

CELLS = 1000
"""Least number of intervals that a calibration looks at unless told otherwise."""

SEEDS = 40
"""Least number of seeds: cells of one seed share their images and are not independent."""

COLUMNS = ["seed", "layer", "depth", "target", "value", "low", "high", "excludes_0"]
"""Columns of a calibration's table."""


@dataclass(frozen=True)
class Calibration:
    """What a calibration found.

    Attributes
    ----------
    table : DataFrame
        One row per cell (seed × layer × target), with columns :data:`COLUMNS`: SPC under circular
        padding and its 95 % interval.
    provenance : dict
        Model, weights, options, versions.
    """

    table: pd.DataFrame
    provenance: dict[str, Any]

    @property
    def cells(self) -> pd.DataFrame:
        """Rows that can exclude 0.

        On maps of 2 or 4 places along a side the four shifted copies of a scene cancel exactly:
        their intervals are [0, 0] by construction and say nothing.
        """
        return self.table[(self.table["low"] != 0) | (self.table["high"] != 0)]

    @property
    def rate(self) -> tuple[float, float, float]:
        """Share of intervals that exclude 0, with its own 95 % interval, resampling seeds.

        Where every seed has the same share, which resampling can't tell from certainty, the
        interval is that of Clopper and Pearson (1934) for as many independent cells as there are
        seeds. Of fewer than 8 seeds there is none: its bounds are NaN.
        """
        by_seed = self.cells.groupby("seed")["excludes_0"].agg(["sum", "count"]).to_numpy(float)
        if not len(by_seed):
            return float("nan"), float("nan"), float("nan")
        share, low, high = (float(v[0]) for v in bootstrap_share(by_seed[:, :1], by_seed[:, 1:]))
        if low == high:
            found, n = share * len(by_seed), len(by_seed)
            low = float(np.nan_to_num(stats.beta.ppf(0.025, found, n - found + 1), nan=0.0))
            high = float(np.nan_to_num(stats.beta.ppf(0.975, found + 1, n - found), nan=1.0))
        return share, low, high

    def summary(self) -> list[str]:
        """Say it in sentences."""
        rate, low, high = self.rate
        seeds, cells = self.table["seed"].nunique(), len(self.cells)
        if not cells:
            return [f"{self.provenance['name']}: every interval is [0, 0] by construction."]
        excluded = len(self.table) - cells
        extreme = float(self.table["value"].abs().max())
        exact = f"; {excluded:,} more are [0, 0] by construction" * bool(excluded)
        bounds = "" if np.isnan(low) else f" [{_percent(max(low, 0))}, {_percent(high)}]"
        readout = self.provenance["readout"] + " on all layers" * bool(self.provenance["concat"])
        return [
            f"{self.provenance['name']}, {self.provenance['weights']} weights, readout {readout}, "
            f"circular padding on leaves: {_percent(rate)} of {cells:,} intervals exclude 0"
            f"{bounds}; 5 % should{exact}.",
            f"{seeds} seeds, {len(self.table) // seeds} layers × targets each; |SPC| at most "
            f"{extreme:.2f}, mean {number_text(self.table['value'].mean(), '.4f')}.",
        ]

    def save(self, folder: str | Path) -> Path:
        """Write ``calibration.csv`` and ``calibration.json``, whole or not at all."""
        write_files(Path(folder), self._files())
        return Path(folder)

    def _files(self) -> dict[str, bytes]:
        return {
            "calibration.csv": self.table.to_csv(index=False).encode(),
            "calibration.json": json_bytes(self.provenance),
        }


def load_calibration(folder: str | Path) -> Calibration:
    """Read what :meth:`Calibration.save` wrote.

    Raises
    ------
    ProbeError
        If it isn't there or can't be read.
    """
    folder = Path(folder)
    with reading(folder, "calibration"):
        provenance = json.loads((folder / "calibration.json").read_text(encoding="utf-8"))
        table = pd.read_csv(io.BytesIO((folder / "calibration.csv").read_bytes()))
        return Calibration(table[COLUMNS], provenance)


@takes_options(
    *("layers", "targets", "train_images", "test_images", "image_size", "batch_size"),
    *("readout", "kernel", "concat", "seed", "device", "progress"),
    train_images=256,
)
def calibrate(
    model: str | nn.Module,
    weights: str | Path = "pretrained",
    *,
    seeds: int | None = None,
    folder: str | Path | None = None,
    **options: Unpack[SharedGiven],
) -> Calibration:
    """Measure the rate of false positives: intervals that exclude 0 where 0 is the truth.

    Runs the pipeline on leaves under circular padding, with images of another seed each time:
    training, cross-validation, test, intervals, as :func:`probe.run` does.

    Parameters
    ----------
    model : str or Module
        As for :func:`probe.run`.
    weights : str
        One of those of :func:`probe.run`.
    seeds : int, optional
        How many runs, at least 2. By default as many as give 1,000 cells, and at least 40. The
        first has the seed ``seed``.
    folder : str or Path, optional
        Where to keep what is finished after each seed; a calibration with the same options that
        lies there is resumed.
    {options}

    Returns
    -------
    Calibration

    Raises
    ------
    ProbeError
        If the network is not equivariant under circular padding, so that 0 is not the truth; or as
        :func:`probe.run`.
    """
    chosen = Options.of(options, weights=one_weights(model, weights), variants="circular")
    if seeds is not None:
        whole_number(seeds, "seeds", 2)
    if chosen.test_images < 8:
        raise ProbeError(
            f"test_images: expected at least 8, two scenes of four, got {chosen.test_images}"
        )
    with opened(model, chosen) as setup:
        backbone, (variant,) = setup.first, setup.variants
        target = prepare(backbone, layers=setup.probed, image_size=setup.size, seed=chosen.seed)
        certificate = target.certify(variant)
        if not certificate.passed:
            raise ProbeError(
                f"{backbone.name} is no null: under circular padding {certificate.reason}; choose "
                "a network that `probe certify` passes"
            )
        job = setup.job()
        view = setup.condition(job, backbone, variant).view
        if seeds is None:
            cells = (1 if chosen.concat else len(view.layers)) * len(chosen.targets)
            seeds = max(SEEDS, -(-CELLS // cells))
        provenance = {
            "name": backbone.name,
            "weights": backbone.weights,
            "sha256": backbone.sha256,
            "layers": [layer.name for layer in view.layers],
            **setup.recorded("targets", "train_images", "test_images", "image_size"),
            "readout": job.head.label,
            "concat": chosen.concat,
            "seed": chosen.seed,
            "residual": certificate.residual,
            "versions": versions(),
        }
        tables = _finished(folder, provenance)
        done = {int(table["seed"].iloc[0]) for table in tables}
        wanted = range(chosen.seed, chosen.seed + seeds)
        bar = tqdm(
            wanted,
            desc=f"calibrate {backbone.name}",
            unit="seed",
            disable=not chosen.progress,
            dynamic_ncols=True,
        )
        for number in bar:
            if number in done:
                continue
            job = setup.job(Leaves(setup.size, number), number)
            tables.append(_cells(job, Condition.of(job, backbone, view)))
            if folder is not None:
                Calibration(_joined(tables), provenance).save(folder)
    kept = [table for table in tables if int(table["seed"].iloc[0]) in wanted]
    return Calibration(_joined(kept), provenance)


def _cells(job: Job, condition: Condition) -> pd.DataFrame:
    with tqdm(disable=True) as silent:
        train(job, [condition], silent)
        fit(job, condition)
        test(job, [condition], silent)
    score(condition)
    rows = []
    for layer in condition.layers:
        if layer.name == INPUT:
            continue
        scored = condition.scored[layer.name]
        table = score_rows(scored, None, True, job.seed, job.scenes)
        table = table[table["metric"] == "spc"].assign(layer=layer.name, depth=layer.depth)
        rows.append(table)
    table = pd.concat(rows, ignore_index=True).assign(seed=job.seed)
    table["excludes_0"] = (table["low"] > 0) | (table["high"] < 0)
    return table[COLUMNS]


def _finished(folder: str | Path | None, provenance: dict[str, Any]) -> list[pd.DataFrame]:
    """Tables of the seeds that were finished before, with the same options."""
    if folder is None or not (Path(folder) / "calibration.json").exists():
        return []
    before = load_calibration(folder)
    same = json.loads(json.dumps(plain(provenance)))
    if {**before.provenance, "seed": 0} != {**same, "seed": 0}:
        return []
    return [table for _, table in before.table.groupby("seed")]


def _joined(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    table = pd.concat(tables, ignore_index=True)
    return table.sort_values(["seed", "depth"], kind="stable", ignore_index=True)


def _percent(share: float) -> str:
    return f"{share:.1%}".replace("%", " %")
