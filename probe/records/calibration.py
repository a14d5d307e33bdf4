"""What a calibration found: how often intervals exclude 0 where 0 is the truth."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from ..files import json_bytes, reading, write_files
from ..scores.intervals import bootstrap_share
from ..targets import note_earlier_targets
from ..text import number_text

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
        note_earlier_targets(provenance, table["target"], folder)
        return Calibration(table[COLUMNS], provenance)


def _percent(share: float) -> str:
    return f"{share:.1%}".replace("%", " %")
