"""Whether what is read at a layer follows position embeddings that are shifted."""

from __future__ import annotations

import numpy as np
import pandas as pd
from torch import Tensor

from ..backbones.layer import Layer
from ..scores.intervals import bootstrap_interval
from ..scores.metrics import per_image
from ..scores.tables import SCORE_COLUMNS
from ..variants.removing import shift_of
from .job import INPUT, Condition, Job

FOLLOWS, STAYS = "follows", "stays"


def note_following(job: Job, condition: Condition, layer: Layer, features: Tensor) -> None:
    """Read a shifted condition's features (B, C, h, w) with the readout of the network as trained.

    Where embeddings are moved by s places, a layer that has its position from them shows at place
    p what it showed at p + s: the readout should find ``T(p + s)``, and not ``T(p)``. Kept are the
    SPC of both, (B, 2, T) in [−1, 1], where the layer's places are those of the embeddings.
    """
    trained, grid = condition.trained, condition.view.shifted
    if trained is None or grid is None or layer.name == INPUT:
        return
    maps = condition.truths[layer.name].maps
    readout = trained.readouts.get(layer.name)
    if readout is None or maps.shape[1:] != grid:
        return
    down, right = shift_of(grid, job.seed)
    moved = np.roll(maps, (-down, -right), (1, 2))
    predicted = readout.predict_and_score(features)[0][:, : len(maps)].cpu().numpy()
    flat = predicted.reshape(*predicted.shape[:2], -1).astype(np.float64)
    scores = [per_image(flat, truth.reshape(len(maps), -1))["spc"] for truth in (moved, maps)]
    condition.followed.setdefault(layer.name, []).append(np.stack(scores, 1))


def follow_rows(job: Job, condition: Condition, layer: Layer) -> pd.DataFrame:
    """A row for each target and for ``follows`` and ``stays``, as in a table of scores."""
    values = np.concatenate(condition.followed[layer.name])
    low, high = bootstrap_interval(values, job.seed, scenes=job.scenes)
    rows = [
        {"target": target, "metric": metric, "value": values[:, m, t].mean(), "chance": 0.0}
        | {"low": low[m, t], "high": high[m, t]}
        for t, target in enumerate(condition.truths[layer.name].targets)
        for m, metric in enumerate((FOLLOWS, STAYS))
    ]
    return pd.DataFrame(rows).reindex(columns=SCORE_COLUMNS)
