"""The inventory: every place from which absolute position can enter a network.

Padding is found by the border rules' own record of padded calls. Everything else is found by
following, through one forward pass, which tensors depend on the image: where one that does *not*,
but varies over places, meets one that does, position enters (position embeddings, relative
biases, rotary factors, coordinates). Windows, token mixing and recurrences are recognised by what
they do to a map. Names only label a source; they don't detect it.

A parameter counts also while it is 0, as training may change it. The one exception are the
coordinates of an inflated network (:func:`probe.coordconv.inflate`): at weights of 0 it is the
original, and has that network's sources.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from ..backbones.forwarding import entered
from ..borders.mode import padding
from ..borders.site import Step
from ..variants.follower import Follower
from ..variants.kinds import PADDING

COLUMNS = [
    *("kind", "module", "function", "parameter", "kernel", "stride", "pad", "consumed", "even"),
    "calls",
]


def take_inventory(model: nn.Module, x: Tensor, entry: str = "forward") -> pd.DataFrame:
    """Run a model once in eval mode on normalised images; see :func:`sources`."""
    with torch.no_grad(), padding("original") as borders, Follower(model, x) as follower:
        entered(model, entry)(x)
    padded: list[Any] = borders.padded.assign(kind=PADDING, parameter="").to_dict("records")
    for row in padded:
        steps = [s for s in borders.steps if s.module == row["module"] and _reads(s, row)]
        if steps:
            row["consumed"] = all(step.consumed for step in steps)
            row["even"] = all(step.even for step in steps)
    met = [
        {**dict.fromkeys(COLUMNS), **asdict(source), "calls": calls}
        for source, calls in follower.sources.items()
    ]
    return pd.DataFrame(padded + met, columns=COLUMNS)


def _reads(step: Step, row: Mapping[str, Any]) -> bool:
    """Whether a strided operation reads the padding of a row: its own, or that of a ``pad``."""
    if row["function"] == "pad":
        return True
    return all(getattr(step, name) == row[name] for name in ("function", "kernel", "stride"))
