"""Calibration: how often the intervals say that there is position where there is none.

On a torus, with tileable and stationary stimuli and circular padding everywhere, a convolutional
network is translation equivariant: the expected SPC of any readout is exactly 0. Of 95 % intervals
5 % should exclude it. Running the pipeline again and again, with other images each time, measures
the share that do. Planted truth, features of known signal-to-noise ratio, measures the opposite:
whether position that is there is found in the right amount.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

import pandas as pd
from torch import nn
from tqdm.auto import tqdm

from ..certificates.prepare import prepare
from ..errors import ProbeError, whole_number
from ..files import plain
from ..machine import versions
from ..records.calibration import COLUMNS, Calibration, load_calibration
from ..runner.job import INPUT, Condition, Job
from ..runner.options import Options, SharedGiven, takes_options
from ..runner.passes import fit, score, test, train
from ..runner.setup import one_weights, opened
from ..scores.tables import score_rows
from ..stimuli.leaves import Leaves
from ..targets import formulas

CELLS = 1000
"""Least number of intervals that a calibration looks at unless told otherwise."""

SEEDS = 40
"""Least number of seeds: cells of one seed share their images and are not independent."""


@takes_options(
    *("layers", "targets", "train_images", "test_images", "image_size", "batch_size"),
    *("readout", "kernel", "concat", "seed", "device", "progress", "forward_kwargs"),
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
            "source": backbone.source,
            "sha256": backbone.sha256,
            "layers": [layer.name for layer in view.layers],
            **setup.recorded("targets", "train_images", "test_images", "image_size"),
            "readout": job.head.label,
            "concat": chosen.concat,
            "maps": formulas(chosen.targets),
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
            leaves = Leaves(setup.size, number).with_channels(backbone.channels)
            job = setup.job(leaves, number)
            tables.append(seed_scores(job, Condition.of(job, backbone, view)))
            if folder is not None:
                Calibration(_joined(tables), provenance).save(folder)
    kept = [table for table in tables if int(table["seed"].iloc[0]) in wanted]
    return Calibration(_joined(kept), provenance)


def seed_scores(job: Job, condition: Condition) -> pd.DataFrame:
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
