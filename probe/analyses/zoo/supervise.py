"""Gives cells to an engine until all are finished or failed."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from ...backbones.catalogue import needs_download
from ...errors import ProbeError
from .cells import HUBS, Cell
from .engines import Engine
from .locks import locked
from .tables import failure
from .work import Outcome, Store, Task

_PAUSE = 0.5  # seconds before a cell that another zoo works on is looked at again
_LOST = 3  # how often a cell is started again whose process was ended from outside


@dataclass(frozen=True)
class Slot:
    """Room for one cell at a time: a share of threads and memory, and maybe a GPU."""

    threads: int = 0
    memory: int = 0
    gpu: str = ""


Tell = Callable[[Cell, Outcome], None]


@dataclass
class _Supervision:
    store: Store
    engine: Engine
    slots: list[Slot]
    time_limit: float
    batch_size: int
    tell: Tell
    retry: frozenset[str]
    waiting: deque[Task] = field(default_factory=deque)
    fetching: deque[Task] = field(default_factory=deque)
    elsewhere: deque[tuple[float, Task]] = field(default_factory=deque)
    running: dict[tuple[str, bool], tuple[Task, Slot | None]] = field(default_factory=dict)
    lost: Counter[str] = field(default_factory=Counter)


def supervise(
    cells: Sequence[Cell],
    store: Store,
    engine: Engine,
    slots: Sequence[Slot],
    *,
    time_limit: float,
    batch_size: int,
    tell: Tell,
    retry: frozenset[str] = frozenset(),
) -> None:
    """Run cells, as many at a time as there are slots; tell how each of them ends.

    What lies in the folder already is told and not run, failures too but for those whose kinds are
    in ``retry``. A cell that another zoo works on is waited for.

    Raises
    ------
    ProbeError
        If the folder can't be written any more.
    """
    state = _Supervision(store, engine, list(slots), time_limit, batch_size, tell, retry)
    for cell in cells:
        task = Task(cell, store, batch_size=batch_size, time_limit=time_limit)
        if "pretrained" in cell.weights and _fetches(cell):
            state.fetching.append(replace(task, fetch=True))
        else:
            state.waiting.append(task)
    try:
        while state.waiting or state.fetching or state.elsewhere or state.running:
            _start(state)
            for key, outcome in engine.poll(0.05 if state.elsewhere else 0.5):
                _end(state, key, outcome)
    finally:
        engine.close()


def _fetches(cell: Cell) -> bool:
    return cell.model.startswith(HUBS[:2]) or needs_download(cell.model)


def _start(state: _Supervision) -> None:
    """Start what can be started."""
    now = time.monotonic()
    while state.elsewhere and state.elsewhere[0][0] <= now:
        state.waiting.append(state.elsewhere.popleft()[1])
    if state.fetching and not any(fetch for _, fetch in state.running):
        task = state.fetching.popleft()
        if not _settled(state, task.cell):
            state.running[task.key] = task, None
            state.engine.start(task)
    while state.slots and state.waiting:
        task = state.waiting.popleft()
        if task.attempt == 1 and _settled(state, task.cell):
            continue
        slot = state.slots.pop(0)
        task = replace(task, threads=slot.threads, memory=slot.memory, gpu=slot.gpu)
        state.running[task.key] = task, slot
        state.engine.start(task)


def _settled(state: _Supervision, cell: Cell) -> bool:
    """Tell of a cell that needs nothing more."""
    kind = state.store.state(cell)
    if not kind or (kind != "finished" and state.retry & {kind, "failed"}):
        return False
    status = "finished" if kind == "finished" else "failed"
    state.tell(cell, Outcome(status, kind, fresh=False))
    return True


def _end(state: _Supervision, key: tuple[str, bool], outcome: Outcome) -> None:
    """Deal with a task that has ended."""
    task, slot = state.running.pop(key)
    if slot is not None:
        state.slots.append(slot)
    if outcome.status == "unwritable":
        raise ProbeError(f"{outcome.sentence}; what is finished is kept, start again to go on")
    if outcome.status == "busy":
        state.elsewhere.append((time.monotonic() + _PAUSE, task))
        return
    state.lost[task.cell.digest] += outcome.status == "lost" or outcome.kind == "killed"
    if outcome.status == "lost" and state.lost[task.cell.digest] < _LOST:
        (state.fetching if task.fetch else state.waiting).appendleft(task)
        return
    if outcome.status == "finished":
        if task.fetch:
            state.waiting.append(replace(task, fetch=False))
        else:
            state.tell(task.cell, outcome)
        return
    again = replace(task, attempt=task.attempt + 1)
    if outcome.kind == "killed" and state.lost[task.cell.digest] == 1:
        state.waiting.appendleft(again)  # maybe it was not memory
    elif outcome.kind in ("memory", "killed") and task.batch_size > 1 and not task.fetch:
        state.waiting.appendleft(replace(again, batch_size=task.batch_size // 2))
    else:
        if outcome.kind == "killed":
            outcome = replace(outcome, kind="memory")
        with locked(state.store.folder, task.cell.name, wait=True):
            if state.store.state(task.cell) != "finished":
                record = failure(task.cell.about(), outcome.kind, outcome.sentence, task.attempt)
                record["seconds"] = round(outcome.seconds, 2)
                record["batch_size"] = task.batch_size
                state.store.fail(task.cell, record, outcome.trace)
        state.tell(task.cell, outcome)
