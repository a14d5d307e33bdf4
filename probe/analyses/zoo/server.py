"""The server: a process that has imported everything already, and forks one for each cell.

It knows no cells by itself: tasks come over a connection, and outcomes go back. Where the
connection ends, because whoever asked is gone, it kills what runs and ends. Every process that it
forks ends with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import importlib
import os
import pickle
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import IO, Any, NoReturn

from .estimate import bytes_text
from .work import Outcome, Task, explain, perform, settle_process

_TICK = 0.2  # seconds between looks at memory and time
_GRACE = 3.0  # seconds for a process out of time to say where it is
_LOG = 20_000  # bytes kept of what a process has said last
_PR_SET_PDEATHSIG = 1


@dataclass
class _Child:
    task: Task
    log: IO[bytes]
    outcome: int  # descriptor that its outcome is read from
    started: float = field(default_factory=time.monotonic)
    over: str = ""  # why it is being ended
    peak: int = 0


def serve(descriptor: int, imports: Sequence[str]) -> None:
    """Take tasks from a connection until it ends."""
    import_modules(imports)
    connection = Connection(descriptor)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(woken, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    lifeline, held = os.pipe()  # processes see by it that the server is gone
    gc.freeze()
    children: dict[int, _Child] = {}
    connection.send(None)  # ready
    try:
        while True:
            ready = wait([connection, woken], _TICK if children else None)
            with contextlib.suppress(BlockingIOError):
                os.read(woken, 4096)
            if connection in ready:
                task = connection.recv()
                children.update([_fork(task, connection, lifeline, held)])
            for key, outcome in _ended(children):
                connection.send((key, outcome))
            _watch(children)
    except (EOFError, OSError):
        pass  # whoever asked is gone
    finally:
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in children:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def import_modules(names: Sequence[str]) -> None:
    """Import Python modules of the user, from the working directory too."""
    if names and os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    for name in names:
        importlib.import_module(name)


def _fork(task: Task, connection: Connection, lifeline: int, held: int) -> tuple[int, _Child]:
    log = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the process has ended
    reader, writer = os.pipe()
    server = os.getpid()
    pid = os.fork()
    if pid == 0:
        connection.close()
        os.close(reader)
        os.close(held)
        _work(task, writer, log, lifeline, server)
    os.close(writer)
    return pid, _Child(task, log, reader)


def _work(task: Task, writer: int, log: IO[bytes], lifeline: int, server: int) -> NoReturn:
    """Be the process of a task."""
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _end_with(server, lifeline)
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        faulthandler.enable(2, all_threads=False)
        settle_process(task)
        outcome = perform(task)
    except BaseException as error:  # SystemExit of a network too
        outcome = explain(error)
    try:
        os.write(writer, pickle.dumps(outcome))
    finally:
        os._exit(0)


def _end_with(server: int, lifeline: int) -> None:
    """End this process as soon as the server is gone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != server:
            os._exit(1)
        return

    def look() -> None:
        os.read(lifeline, 1)
        os._exit(1)

    threading.Thread(target=look, daemon=True).start()


def _ended(children: dict[int, _Child]) -> list[tuple[Any, Outcome]]:
    """Bury processes that have ended, and say how."""
    outcomes = []
    for pid in list(children):
        done, status, _ = os.wait4(pid, os.WNOHANG)
        if done:
            child = children.pop(pid)
            outcomes.append((child.task.key, _outcome(child, status)))
    return outcomes


def _outcome(child: _Child, status: int) -> Outcome:
    with open(child.outcome, "rb") as file:
        said = file.read()
    child.log.seek(0, os.SEEK_END)
    child.log.seek(max(0, child.log.tell() - _LOG))
    trace = child.log.read().decode(errors="replace")
    child.log.close()
    seconds = time.monotonic() - child.started
    if said and os.WIFEXITED(status):
        outcome: Outcome = pickle.loads(said)
        return outcome
    task, number = child.task, os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    if child.over == "time":
        sentence = f"it took longer than the limit of {task.time_limit:g} s"
        return Outcome("failed", "time", sentence, trace, seconds)
    if child.over == "memory":
        sentence = (
            f"it took {bytes_text(child.peak)} of memory, and may take {bytes_text(task.memory)}"
        )
        return Outcome("failed", "memory", sentence, trace, seconds)
    if number == signal.SIGKILL:
        sentence = "its process was killed (signal 9), as the system does where memory runs out"
        return Outcome("failed", "killed", sentence, trace, seconds)
    if number:
        sentence = f"its process crashed: {signal.strsignal(number)} (signal {number})"
    else:
        sentence = f"its process ended by itself, with status {os.waitstatus_to_exitcode(status)}"
    return Outcome("failed", "crash", sentence, trace, seconds)


def _watch(children: dict[int, _Child]) -> None:
    """End processes that take too long or too much memory."""
    for pid, child in children.items():
        task, now = child.task, time.monotonic()
        if not child.over and 0 < task.time_limit < now - child.started:
            child.over, child.started = "time", now - task.time_limit
            os.kill(pid, signal.SIGABRT)  # says where it is
        elif child.over == "time" and now - child.started > task.time_limit + _GRACE:
            os.kill(pid, signal.SIGKILL)
        if task.memory and not task.gpu and not child.over:
            child.peak = max(child.peak, _resident(pid))
            if child.peak > task.memory:
                child.over = "memory"
                os.kill(pid, signal.SIGKILL)


def _resident(pid: int) -> int:
    """Bytes of memory that a process holds; 0 where that can't be read."""
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
