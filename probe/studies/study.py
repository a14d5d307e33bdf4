"""Studies: outcomes of many cells as tables, with the page that an experiment makes of them."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..files import json_bytes, npz_bytes, parquet_bytes, reading, write_files
from ..machine import device_name, pick_device, versions
from ..scores.intervals import bootstrap_interval
from .cells import Cell, Outcome, pick_workers, run_cells


@dataclass(frozen=True)
class Study:
    """Outcomes of many cells, as tables; each experiment has a class of its own.

    Attributes
    ----------
    table : DataFrame
        Tidy: one row per score, the options of its cell before it.
    curves : DataFrame
        One row per measurement on the way.
    arrays : dict of str to ndarray
        Maps and images, by name.
    provenance : dict
        Options, versions, device, start.
    """

    table: pd.DataFrame
    curves: pd.DataFrame
    arrays: dict[str, NDArray[Any]]
    provenance: dict[str, Any]

    @classmethod
    def of(
        cls,
        cells: Sequence[Cell],
        outcomes: Sequence[Outcome],
        keep: Sequence[str],
        provenance: dict[str, Any],
    ) -> Self:
        """Put outcomes below one another, each with the options named in ``keep``.

        Arrays are named by these options and their own name, joined by ``/``.
        """
        options = [{name: cell[name] for name in keep} for cell in cells]
        pairs = list(zip(options, outcomes, strict=True))
        table = [{**option, **row} for option, outcome in pairs for row in outcome.scores]
        curves = [{**option, **row} for option, outcome in pairs for row in outcome.curve]
        arrays = {
            "/".join([*map(str, option.values()), name]): array
            for option, outcome in pairs
            for name, array in outcome.arrays.items()
        }
        return cls(pd.DataFrame(table), pd.DataFrame(curves), arrays, provenance)

    def summary(self) -> list[str]:
        """Say it in sentences."""
        raise NotImplementedError

    def page(self) -> str:
        """Render a page that loads nothing from elsewhere."""
        raise NotImplementedError

    def to_html(self, path: str | Path) -> Path:
        """Write a page that needs nothing else."""
        path = Path(path)
        write_files(path.parent, {path.name: self.page().encode()})
        return path

    def save(self, folder: str | Path) -> Path:
        """Write ``scores.csv``, ``scores.parquet``, ``curves.parquet``, ``arrays.npz`` and
        ``study.json``.
        """
        files = {
            "scores.csv": self.table.to_csv(index=False).encode(),
            "scores.parquet": parquet_bytes(self.table),
            "curves.parquet": parquet_bytes(self.curves),
            "arrays.npz": npz_bytes(self.arrays),
            "study.json": json_bytes(self.provenance),
        }
        write_files(Path(folder), files)
        return Path(folder)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read what :meth:`save` wrote."""
        folder = Path(folder)
        with reading(folder, "study"):
            provenance = json.loads((folder / "study.json").read_text(encoding="utf-8"))
            table = pd.read_parquet(folder / "scores.parquet")
            curves = pd.read_parquet(folder / "curves.parquet")
            with np.load(folder / "arrays.npz", allow_pickle=False) as kept:
                arrays = {name: kept[name] for name in kept.files}
            return cls(table, curves, arrays, provenance)


def train_cells(
    cells: Sequence[Cell],
    train: Callable[..., Outcome],
    *,
    quick: bool,
    options: Mapping[str, Any],
    device: str,
    workers: int | None,
    progress: bool,
    folder: str | Path | None,
    description: str,
    **about: Any,
) -> tuple[list[Outcome], dict[str, Any]]:
    """Train the cells of an experiment; return outcomes and provenance.

    ``train`` takes a cell, and where as ``device``; ``quick``, ``options`` and ``about`` go into
    the provenance; the rest is as for :func:`run_cells`.
    """
    started, clock = datetime.datetime.now(datetime.UTC), time.perf_counter()
    where = pick_device(device)
    environment = {"device": device_name(where, threads=1), "versions": versions()}
    workers = pick_workers(workers, where)
    outcomes = run_cells(
        cells,
        partial(train, device=where),
        folder,
        environment=environment,
        workers=workers,
        description=description,
        progress=progress,
    )
    provenance = {
        "profile": "quick" if quick else "full",
        "options": dict(options),
        **about,
        **environment,
        "workers": workers,
        "started": started.isoformat(timespec="seconds"),
        "seconds": round(time.perf_counter() - clock, 1),
        "training_seconds": round(sum(outcome.seconds for outcome in outcomes), 1),
    }
    return outcomes, provenance


def over_seeds(table: pd.DataFrame, by: Sequence[str], value: str = "value") -> pd.DataFrame:
    """Mean over seeds with its 95 % interval, the least and the largest.

    Returns the columns ``by`` that tell apart what is averaged, ``value`` with ``low`` and ``high``
    (see :func:`probe.scores.bootstrap_interval`), ``least``, ``most`` and ``seeds``.
    """
    rows = []
    for key, group in table.groupby(list(by), sort=False, dropna=False):
        values = group[value].to_numpy(float)
        low, high = (float(b[0]) for b in bootstrap_interval(values[:, None]))
        rows.append([*key, values.mean(), low, high, values.min(), values.max(), len(values)])
    return pd.DataFrame(rows, columns=[*by, *("value", "low", "high", "least", "most", "seeds")])


def seeds_text(row: pd.Series[Any], write: Callable[[float], str]) -> dict[str, str]:
    """A mean of :func:`over_seeds` for a page, with the least and most of several seeds."""
    spread = f"{write(row['least'])} … {write(row['most'])}" if row["seeds"] > 1 else ""
    return {"value": write(row["value"]), "spread": spread}
