"""A process of its own for one piece of work."""

from __future__ import annotations

import os
import pickle
import resource
import signal
from collections.abc import Callable
from typing import TypeVar

import torch

from ...errors import ProbeError
from ...machine import free_memory

T = TypeVar("T")


def forked(work: Callable[[], T]) -> T | str:
    """Do work in a forked process on one thread, which may take the memory that is free.

    Returns what the work returned, or a sentence on how its process ended without an answer.
    """
    if not hasattr(os, "fork"):
        raise ProbeError("processes: expected a system that can fork, such as Linux or macOS")
    reader, writer = os.pipe()
    free = free_memory()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reader)
            torch.set_num_threads(1)
            if free is not None and not torch.cuda.is_available():
                resource.setrlimit(resource.RLIMIT_DATA, (free, free))
            with os.fdopen(writer, "wb") as answer:
                pickle.dump(work(), answer)
        finally:
            os._exit(0)
    os.close(writer)
    try:
        with os.fdopen(reader, "rb") as answer:
            said = answer.read()
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        raise
    finally:
        _, status = os.waitpid(pid, 0)
    if said:
        answered: T = pickle.loads(said)
        return answered
    how = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else "no answer"
    return f"its process ended ({how}), as the system does where memory runs out"
