"""What the process of a cell does: one run, kept or explained."""

from __future__ import annotations

import errno
import os
import resource
import sys
import time
import traceback
import warnings
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from threadpoolctl import threadpool_limits

from ...backbones.weights import build_model
from ...errors import NotFiniteError, ProbeError, ProbeWarning
from ...files import UnwritableError
from ...results import Result
from ...runner.options import Options
from ...text import first_line
from ..run import run
from .cells import Cell
from .estimate import bytes_text, estimate
from .locks import locked

_LONGEST = 20_000  # characters of a traceback: an outcome fits into the buffer of a pipe


class Store(Protocol):
    """Where cells go."""

    @property
    def folder(self) -> Path:
        """Which folder."""

    def state(self, cell: Cell) -> str:
        """``finished``, ``failed`` or nothing."""

    def keep(self, cell: Cell, result: Result, about: dict[str, Any]) -> None:
        """Put a result where it belongs; the cell's lock is held."""

    def fail(self, cell: Cell, record: dict[str, Any], trace: str) -> None:
        """Put a failure where it belongs; the cell's lock is held."""


@dataclass(frozen=True)
class Task:
    """What an engine is given.

    Attributes
    ----------
    cell : Cell
        Which.
    store : Store
        Where it goes.
    fetch : bool
        Only download its weights.
    batch_size : int
        Images per forward pass.
    threads : int
        How many threads it may use; 0 leaves them as they are.
    gpu : str
        Which GPU it has for itself, as ``CUDA_VISIBLE_DEVICES`` takes it; nothing for the options'
        device.
    memory : int
        Bytes that it may take; 0 for no bound.
    time_limit : float
        Seconds that it may take; 0 for no limit.
    attempt : int
        The first is 1.
    """

    cell: Cell
    store: Store
    fetch: bool = False
    batch_size: int = 32
    threads: int = 0
    gpu: str = ""
    memory: int = 0
    time_limit: float = 0
    attempt: int = 1

    @property
    def key(self) -> tuple[str, bool]:
        """What tells it apart from the others that run."""
        return self.cell.digest, self.fetch


@dataclass(frozen=True)
class Outcome:
    """How a task ended.

    ``status`` is ``finished``, ``failed``, ``busy`` (another zoo has the cell), ``lost`` (its
    process ended through no fault of its own) or ``unwritable`` (the folder can't be written).
    ``fresh`` says whether this task has finished the cell, and not another before it.
    """

    status: str
    kind: str = ""
    sentence: str = ""
    trace: str = ""
    seconds: float = 0.0
    fresh: bool = True


def perform(task: Task) -> Outcome:
    """Run a cell and keep its result; or say why not. Raises nothing but what ends a process."""
    if task.fetch:
        return _fetch(task)
    with locked(task.store.folder, task.cell.name) as free:
        if not free:
            return Outcome("busy")
        if task.store.state(task.cell) == "finished":
            return Outcome("finished", fresh=False)
        started = time.perf_counter()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ProbeWarning)  # they stand in the result
                _run(task, started)
            return Outcome("finished", seconds=time.perf_counter() - started)
        except Exception as error:  # whatever it is, it is told
            return replace(explain(error), seconds=time.perf_counter() - started)


def _run(task: Task, started: float) -> None:
    cell = task.cell
    given = {**cell.options, "batch_size": task.batch_size}
    if task.gpu:
        given["device"] = "cuda"
    about = cell.about() | {"attempts": task.attempt}
    options = Options.of({**given, "weights": cell.weights})
    with suppress(ProbeError):  # what can't be estimated is tried
        guess = estimate(cell.model, options)
        about |= {"parameters": guess.parameters, "operations": guess.work(options)}
        _check_memory(task, guess.memory(replace(options, batch_size=1, margin=None)))
        while given["batch_size"] > 1 and 0 < task.memory < guess.memory(options):
            given["batch_size"] //= 2
            options = replace(options, batch_size=given["batch_size"])
    result = run(cell.model, weights=list(cell.weights), progress=False, **given)
    about["seconds"] = round(time.perf_counter() - started, 2)
    about["peak_memory"] = peak_memory()
    task.store.keep(cell, result, about)


class _RefusedError(Exception):
    """A cell that can't fit."""


def _check_memory(task: Task, needed: int) -> None:
    if 0 < task.memory < needed and not task.gpu:
        raise _RefusedError(
            f"{task.cell.model} needs about {bytes_text(needed)} of memory even with batches of "
            f"one image, and may take {bytes_text(task.memory)}: choose fewer jobs, a smaller "
            "image size, or give it more with --memory"
        )


def _fetch(task: Task) -> Outcome:
    """Download the weights of a cell; one process at a time over all zoos in a folder."""
    started = time.perf_counter()
    try:
        with locked(task.store.folder, "download", wait=True):
            build_model(task.cell.model, "pretrained", 0, None)
        return Outcome("finished", seconds=time.perf_counter() - started)
    except Exception as error:
        return replace(explain(error), kind="download")


def explain(error: BaseException) -> Outcome:
    """Say what went wrong: its kind, one sentence and the traceback."""
    trace = "".join(traceback.format_exception(error))[-_LONGEST:]
    if isinstance(error, UnwritableError):
        return Outcome("unwritable", "disk", str(error), trace)
    sentence = str(error)
    if isinstance(error, _RefusedError):
        kind = "too large"
    elif is_memory(error):
        kind = "memory"
    elif isinstance(error, NotFiniteError):
        kind = "not finite"
    elif isinstance(error, TimeoutError):
        kind = "time"
    elif isinstance(error, ProbeError):
        kind = "refused" if error.__cause__ is None else "raised"
    else:
        kind, sentence = "raised", f"{type(error).__name__}: {first_line(error)}"
    return Outcome("failed", kind, sentence, trace)


def is_memory(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, is that memory ran out."""
    while error is not None:
        text = str(error).lower()
        words = "out of memory" in text or "can't allocate memory" in text
        if isinstance(error, MemoryError | torch.OutOfMemoryError):
            return True
        if isinstance(error, OSError) and error.errno == errno.ENOMEM:
            return True
        if isinstance(error, RuntimeError) and (words or "not enough memory" in text):
            return True
        error = error.__cause__
    return False


def peak_memory() -> int:
    """Bytes that this process has held at most."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def settle_process(task: Task) -> None:
    """Give a process of its own its threads, its GPU and its bound of memory."""
    if task.gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = task.gpu
    if task.threads:
        torch.set_num_threads(task.threads)
        threadpool_limits(task.threads)
    if task.memory and not task.gpu and sys.platform == "linux":
        status = Path("/proc/self/status").read_text()
        held = int(status.partition("VmData:")[2].split()[0]) * 1024
        limit = held + task.memory
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
