"""Engines: where cells run."""

from __future__ import annotations

import contextlib
import importlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, Protocol

from ...errors import ProbeError
from ...registry import Registry
from .server import import_modules
from .work import Outcome, Task, explain, perform

Key = tuple[str, bool]


class Engine(Protocol):
    """Runs tasks, so many at a time as its ``slots`` allow."""

    def start(self, task: Task) -> None:
        """Start a task."""

    def poll(self, timeout: float) -> list[tuple[Key, Outcome]]:
        """Wait for tasks that have ended, at most so many seconds."""

    def close(self) -> None:
        """End what runs."""


class Processes:
    """A process for each task, forked from a server that has imported everything already."""

    def __init__(self, imports: Sequence[str] = (), **_: Any) -> None:
        if not hasattr(os, "fork"):
            raise ProbeError(
                "engine processes: expected a system that can fork, such as Linux or macOS; "
                "choose the engine inside"
            )
        self.imports = list(imports)
        self.connection: Connection | None = None
        self.server: subprocess.Popen[bytes] | None = None
        self.running: set[Key] = set()

    def _connected(self) -> Connection:
        """Start the server where there is none."""
        if self.connection is not None:
            return self.connection
        ours, theirs = Pipe()
        code = (
            "import sys; from probe.analyses.zoo.server import serve; "
            "serve(int(sys.argv[1]), sys.argv[2:])"
        )
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        self.server = subprocess.Popen(
            [sys.executable, "-c", code, str(theirs.fileno()), *self.imports],
            env=environment,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for us, who tell it
        )
        theirs.close()
        self.connection = ours
        try:
            ours.recv()
        except EOFError:
            self.close()
            raise ProbeError(
                "the server that cells are forked from ended while it started: see above why"
            ) from None
        return ours

    def start(self, task: Task) -> None:
        connection = self._connected()
        self.running.add(task.key)
        with contextlib.suppress(OSError):  # poll will see that the server is gone
            connection.send(task)

    def poll(self, timeout: float) -> list[tuple[Key, Outcome]]:
        ended: list[tuple[Key, Outcome]] = []
        if not self.running:
            time.sleep(timeout)
            return ended
        connection = self._connected()
        try:
            while connection.poll(0 if ended else timeout):
                key, outcome = connection.recv()
                self.running.discard(key)
                ended.append((key, outcome))
        except (EOFError, OSError):
            sentence = "the server that its process was forked from was killed"
            ended += [(key, Outcome("lost", "killed", sentence)) for key in self.running]
            self.close()
        return ended

    def close(self) -> None:
        self.running.clear()
        if self.connection is not None:
            self.connection.close()
            self.connection = None
        if self.server is not None:
            self.server.wait()
            self.server = None


class Inside:
    """One task after another in this process, which a crash of one ends."""

    def __init__(self, imports: Sequence[str] = (), **_: Any) -> None:
        import_modules(imports)
        self.ended: list[tuple[Key, Outcome]] = []

    def start(self, task: Task) -> None:
        self.ended.append((task.key, perform(replace(task, threads=0, memory=0))))

    def poll(self, timeout: float) -> list[tuple[Key, Outcome]]:
        ended, self.ended = self.ended, []
        if not ended:
            time.sleep(timeout)
        return ended

    def close(self) -> None:
        pass


class Ray:
    """Tasks of a Ray cluster, local or at an address, all of whose nodes see the folder."""

    def __init__(
        self, imports: Sequence[str] = (), *, address: str | None = None, threads: int = 1, **_: Any
    ) -> None:
        try:
            self.ray = importlib.import_module("ray")
        except ImportError:
            raise ProbeError(
                "engine ray: Ray is not installed; pip install 'position-probe[ray]'"
            ) from None
        self.imports, self.threads = list(imports), threads
        self.started_here = not self.ray.is_initialized()
        if self.started_here:
            paths = os.pathsep.join(p for p in sys.path if p)
            self.ray.init(
                address=address,
                log_to_driver=False,
                include_dashboard=False if address is None else None,
                runtime_env={"env_vars": {"PYTHONPATH": paths}},
            )
        self.tasks: dict[Any, Task] = {}

    def start(self, task: Task) -> None:
        remote = self.ray.remote(
            num_cpus=0 if task.fetch else max(task.threads, 1),
            num_gpus=1 if task.gpu else 0,
            max_calls=1,  # memory of a GPU is free again
            max_retries=3,
        )(on_ray)
        name = f"{task.cell.name}{' (download)' * task.fetch}"
        self.tasks[remote.options(name=name).remote(task, self.imports)] = task

    def poll(self, timeout: float) -> list[tuple[Key, Outcome]]:
        if not self.tasks:
            time.sleep(timeout)
            return []
        ready, _ = self.ray.wait(list(self.tasks), timeout=timeout)
        ended = []
        for reference in ready:
            task = self.tasks.pop(reference)
            try:
                outcome = self.ray.get(reference)
            except self.ray.exceptions.OutOfMemoryError as error:
                outcome = Outcome("failed", "memory", str(error).strip().splitlines()[0])
            except self.ray.exceptions.RayError as error:
                outcome = replace(explain(error), kind="crash")
            ended.append((task.key, outcome))
        return ended

    def close(self) -> None:
        for reference in self.tasks:
            self.ray.cancel(reference, force=True)
        self.tasks.clear()
        if self.started_here:
            self.ray.shutdown()


def on_ray(task: Task, imports: Sequence[str]) -> Outcome:
    """Run a task in a process of Ray's, which ends with it."""
    import signal

    def late(*_: Any) -> None:
        raise TimeoutError(f"it took longer than the limit of {task.time_limit:g} s")

    import_modules(imports)
    if task.time_limit:
        signal.signal(signal.SIGALRM, late)
        signal.setitimer(signal.ITIMER_REAL, task.time_limit)
    import torch

    torch.set_num_threads(max(task.threads, 1))
    return perform(task)


ENGINES: Registry[Callable[..., Engine]] = Registry(
    "engine",
    {
        "processes": (Processes, "a process for each cell, on this machine"),
        "ray": (Ray, "tasks of a Ray cluster, all of whose nodes see the folder"),
        "inside": (Inside, "one after another in this process, which a crash of one ends"),
    },
)
"""Where cells can run."""
