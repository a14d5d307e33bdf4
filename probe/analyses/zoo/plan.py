"""What a zoo would take, and how far one is."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from ...errors import ProbeError
from ...runner.options import Options
from .cells import Cell
from .estimate import Estimate, estimate
from .folder import ZooStore, asked_cells, is_zoo
from .locks import holders
from .tables import cell_rows

_EFFICIENCY = 0.5  # of a network, beside one large convolution


def foresee(cells: Sequence[Cell], out: Path) -> Iterator[dict[str, Any]]:
    """Yield for each cell its state, parameters, bytes of memory and seconds, about."""
    rate = _known_rate(out) or _measured_rate()
    store, known = ZooStore(out), dict[str, Estimate]()
    for cell in cells:
        row: dict[str, Any] = {"cell": cell, "state": store.state(cell) or "to run"}
        options = Options.of({**cell.options, "weights": cell.weights})
        try:
            if cell.model not in known:
                known[cell.model] = estimate(cell.model, options)
            guess = known[cell.model]
            seconds = guess.seconds(options, rate)
            row |= {"parameters": guess.parameters, "memory": guess.memory(options)}
            row |= {"seconds": seconds}
        except ProbeError:  # of what is on a hub, or can't be built without its numbers
            pass
        yield row


def _known_rate(out: Path) -> float:
    """Operations a second of the cells that are finished; 0 where there are none."""
    rows = [row for _, row in cell_rows(out)] if is_zoo(out) else []
    rates = [r["operations"] / r["seconds"] for r in rows if r.get("operations", 0) > 0]
    return float(pd.Series(rates).median()) if rates else 0.0


def _measured_rate() -> float:
    """Operations a second of this machine, from a convolution."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x, weight = torch.ones(8, 64, 56, 56, device=device), torch.ones(64, 64, 3, 3, device=device)
    with torch.inference_mode():
        float(torch.conv2d(x, weight)[0, 0, 0, 0])
        started, rounds = time.perf_counter(), 0
        while time.perf_counter() - started < 0.1:
            float(torch.conv2d(x, weight)[0, 0, 0, 0])
            rounds += 1
    operations = 2 * 8 * 64 * 64 * 9 * 54 * 54 * rounds
    return _EFFICIENCY * operations / (time.perf_counter() - started)


@dataclass(frozen=True)
class Progress:
    """How far a zoo is.

    Attributes
    ----------
    finished, left : int
        Cells; ``left`` are neither finished nor failed nor running.
    running : dict
        Who works on which cell: pid, host and start.
    failed : Counter
        How many of each kind.
    seconds : float
        Of a cell on average; NaN where none is finished.
    """

    finished: int
    running: dict[str, dict[str, Any]]
    failed: Counter[str] = field(default_factory=Counter)
    left: int = 0
    seconds: float = float("nan")

    @property
    def remaining(self) -> float:
        """Seconds until all is done, about."""
        return self.seconds * (self.left + len(self.running) / 2) / max(1, len(self.running))


def progress_of(folder: Path) -> Progress:
    """Say how far a zoo is.

    Raises
    ------
    ProbeError
        If there is none.
    """
    if not is_zoo(folder):
        raise ProbeError(f"{folder} holds no zoo: expected a folder that `probe zoo` wrote")
    rows = {row["cell"]: row for _, row in cell_rows(folder)}
    running = {name: who for name, who in holders(folder).items() if name != "download"}
    finished = [r for r in rows.values() if r["status"] == "finished"]
    failed = Counter(r["kind"] for r in rows.values() if r["status"] == "failed")
    left = set(asked_cells(folder)) - set(rows) - set(running)
    seconds = float(pd.Series([r["seconds"] for r in finished], dtype=float).mean())
    return Progress(len(finished), running, failed, len(left), seconds)
