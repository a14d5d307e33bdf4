"""Cells: many small trainings side by side, each kept as soon as it is finished."""

from __future__ import annotations

import hashlib
import io
import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch
from joblib.externals.loky import get_reusable_executor
from numpy.typing import NDArray
from tqdm.auto import tqdm

from ..errors import whole_number
from ..files import npz_bytes, plain, write_files

Cell = Mapping[str, Any]
"""One training: its options, as plain values."""


@dataclass(frozen=True)
class Outcome:
    """What one training found: rows of the study's table and curves, maps or images worth keeping.

    The options of the cell are put before each row; ``curve`` has what was measured on the way, by
    ``step`` and ``seconds``.
    """

    scores: list[dict[str, Any]]
    curve: list[dict[str, Any]] = field(default_factory=list)
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)
    seconds: float = float("nan")


def run_cells(
    cells: Sequence[Cell],
    train: Callable[[Cell], Outcome],
    folder: str | Path | None = None,
    *,
    environment: Mapping[str, Any] | None = None,
    workers: int = 1,
    description: str = "cells",
    progress: bool = True,
) -> list[Outcome]:
    """Train cells; those that a folder holds already are read from it.

    Small networks leave most of a second core idle, so that several trainings side by side, each on
    one thread, take less time than one after another on all. A single worker takes one thread too:
    outcomes don't depend on the number of workers.

    Parameters
    ----------
    cells : sequence of mapping
        Options of each. An outcome is kept and found again by them, so that they must hold all that
        it depends on, but for what ``environment`` says.
    train : callable
        Cell to :class:`Outcome`.
    folder : str or Path, optional
        Where each outcome is kept, whole, as soon as it is there (``cells/*.npz``).
    environment : mapping, optional
        Versions and device; outcomes kept from another one are trained again.
    workers : int
        How many processes; 1 is this one. See :func:`pick_workers`.
    description : str
        Before the bar.
    progress : bool
        Show a bar.
    """
    environment = json.loads(json.dumps(plain(environment or {})))
    outcomes: dict[int, Outcome] = {}
    calls: list[_Call] = []
    for number, cell in enumerate(cells):
        path = None if folder is None else Path(folder) / "cells" / _file_name(cell)
        kept = None if path is None else _read(path, cell, environment)
        if kept is None:
            calls.append((train, number, cell, path, environment))
        else:
            outcomes[number] = kept
    bar = tqdm(
        total=len(cells),
        initial=len(outcomes),
        desc=description,
        unit="cell",
        disable=not progress,
        dynamic_ncols=True,
    )
    with bar:
        for number, outcome in _side_by_side(calls, min(workers, len(calls))):
            outcomes[number] = outcome
            bar.set_postfix_str(", ".join(str(v) for v in list(cells[number].values())[:4]))
            bar.update()
    return [outcomes[number] for number in range(len(cells))]


def pick_workers(workers: int | None, device: torch.device) -> int:
    """How many cells are trained side by side: by default one a core, and one on a GPU."""
    if workers is not None:
        return whole_number(workers, "workers", 1)
    return joblib.cpu_count() if device.type == "cpu" else 1


_Call = tuple[Callable[[Cell], Outcome], int, Cell, Path | None, Mapping[str, Any]]


def _side_by_side(calls: Sequence[_Call], workers: int) -> Iterator[tuple[int, Outcome]]:
    """Make calls, and give back each when it is finished."""
    if workers <= 1:
        yield from (_finish(*call) for call in calls)
        return
    with joblib.parallel_config("loky", n_jobs=workers, inner_max_num_threads=1):
        parallel = joblib.Parallel(return_as="generator_unordered", batch_size=1)
        with warnings.catch_warnings():
            # A worker whose memory has grown is replaced, which costs seconds and no outcome.
            warnings.filterwarnings("ignore", "A worker stopped while some jobs")
            try:
                yield from parallel(joblib.delayed(_finish)(*call) for call in calls)
            except BaseException:  # of an error or a signal: no worker goes on with its cell
                get_reusable_executor().shutdown(wait=True, kill_workers=True)
                raise


def _finish(
    train: Callable[[Cell], Outcome],
    number: int,
    cell: Cell,
    path: Path | None,
    environment: Mapping[str, Any],
) -> tuple[int, Outcome]:
    """Train a cell and keep it, where it is trained: what is finished is never lost."""
    with _plain_torch():
        outcome = train(cell)
    if path is not None:
        write_files(path.parent, {path.name: _bytes(cell, environment, outcome)})
    return number, outcome


@contextmanager
def _plain_torch() -> Iterator[None]:
    """One thread, gradients and float32, whatever the caller has set; as before afterwards.

    Numbers below float32's normal range, of which the gradient of a sure classifier has many, count
    as 0: processors take ten times as long over them.
    """
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    flushed = float(torch.tensor(1e-40) * 1) == 0  # there is no other way to ask
    try:
        torch.set_num_threads(1)
        torch.set_default_dtype(torch.float32)
        torch.set_flush_denormal(True)
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)
        torch.set_flush_denormal(flushed)


def _file_name(cell: Cell) -> str:
    words = "-".join(str(v) for v in cell.values() if isinstance(v, str | int))
    readable = re.sub(r"[^\w.-]+", "_", words)[:80]
    digest = hashlib.sha256(json.dumps(plain(cell), sort_keys=True).encode()).hexdigest()
    return f"{readable}-{digest[:12]}.npz"


def _bytes(cell: Cell, environment: Mapping[str, Any], outcome: Outcome) -> bytes:
    record: dict[str, Any] = {"cell": cell, "made": environment}
    record |= {name: getattr(outcome, name) for name in ("scores", "curve", "seconds")}
    text = np.frombuffer(json.dumps(plain(record)).encode(), np.uint8)
    return npz_bytes({"record": text, **{f"array/{k}": v for k, v in outcome.arrays.items()}})


def _read(path: Path, cell: Cell, environment: Mapping[str, Any]) -> Outcome | None:
    """What was kept of a cell; nothing where there is none of the kind, or it can't be read."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as kept:
            record = json.loads(kept["record"].tobytes())
            arrays = {n.removeprefix("array/"): kept[n] for n in kept.files if n != "record"}
        if record["cell"] != json.loads(json.dumps(plain(cell))) or record["made"] != environment:
            return None
        scores, curve = ([_numbers(row) for row in record[n]] for n in ("scores", "curve"))
        return Outcome(scores, curve, arrays, float(record["seconds"]))
    except Exception:  # damaged archives raise whatever their bytes happen to ask for
        return None


def _numbers(row: Mapping[str, Any]) -> dict[str, Any]:
    """Undo what :func:`probe.files.plain` did to NaN and infinities."""
    words = {"nan": np.nan, "inf": np.inf, "-inf": -np.inf}
    return {k: words.get(v, v) if isinstance(v, str) else v for k, v in row.items()}
