"""Effects of units as a table, and in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ...scores.intervals import bootstrap_interval
from ...scores.metrics import METRICS
from ...scores.tables import Scored
from .units import Kept


def effect_table(
    kept: Sequence[Kept],
    scored: Sequence[Scored],
    targets: Sequence[str],
    scenes: NDArray[np.int64],
    seed: int,
) -> pd.DataFrame:
    """One row for each pass, target and metric.

    Parameters
    ----------
    kept : sequence of Kept
        What keeps its padding in each pass; among them all of the network, and nothing.
    scored : sequence of Scored
        Scores of each pass by test image.
    targets : sequence of str
        Which of the targets.
    scenes : ndarray of int, shape (N,)
        See :func:`probe.stimuli.scenes`.
    seed : int
        Of the bootstrap.
    """
    keys = list(product(targets, METRICS))
    # Images, passes, targets and metrics.
    values = np.stack([s.values[:, [s.columns.index(key) for key in keys]] for s in scored], 1)
    keeps = np.array([k.keeps for k in kept])
    whole, bare = (values[:, np.flatnonzero(keeps == word)] for word in ("all", "none"))
    more = np.isin(keeps, ("only", "all"))[:, None]
    effects = np.where(more, values - bare, whole - values)
    columns = {}
    for name, by_image, bounds in (
        ("value", values, ("low", "high")),
        ("effect", effects, ("effect_low", "effect_high")),
    ):
        columns[name] = by_image.mean(0).ravel()
        interval_bounds = bootstrap_interval(by_image, seed, scenes=scenes)
        columns |= dict(zip(bounds, map(np.ravel, interval_bounds), strict=True))
    rows = [(k.kind, k.unit, k.function, k.order, k.keeps, *key) for k in kept for key in keys]
    names = ["kind", "unit", "function", "order", "keeps", "target", "metric"]
    table = pd.DataFrame(rows, columns=names).assign(**columns)
    kinds = list(dict.fromkeys(table["kind"]))
    return table.sort_values(
        ["kind", "order"],
        key=lambda column: column.map(kinds.index) if column.name == "kind" else column,
        kind="stable",
        ignore_index=True,
    )
