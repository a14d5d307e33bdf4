"""How the cells of a zoo are run; reading it takes neither torch nor timm."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from ...errors import ProbeError

T = TypeVar("T")

TIME_LIMIT = 6 * 3600.0
"""Seconds that a cell may take, unless told otherwise."""

DEFAULT_ENGINE = "processes" if hasattr(os, "fork") else "inside"
"""A process for each cell, where the system can."""


@dataclass(frozen=True)
class How:
    """How cells are run; changes no number but for rounding.

    Attributes
    ----------
    jobs : int
        Cells side by side, each with its share of threads and memory.
    gpus : str, optional
        One cell on each GPU: ``all``, how many, or their numbers such as ``0,2``; then ``jobs``
        counts for nothing.
    time_limit : float
        Seconds that a cell may take.
    memory : float, optional
        GiB that a cell may take; by default its share of nine tenths of what is free.
    retry : str or sequence of str
        Which failures are run again: ``failed`` for all, or kinds such as ``memory``.
    shard : str, optional
        ``2/5``: the second of five parts. Each writes its own cells; then `probe zoo merge`.
    engine : str
        ``processes``, ``ray`` or ``inside``, see :data:`probe.analyses.zoo.ENGINES`.
    ray_address : str, optional
        Of a Ray cluster; by default one is started on this machine.
    imports : str or sequence of str
        Python modules to import first, which register models with timm.
    report : bool
        Write a report for each cell.
    """

    jobs: int = 1
    gpus: str | int | None = None
    time_limit: float = TIME_LIMIT
    memory: float | None = None
    retry: str | Sequence[str] = ()
    shard: str | None = None
    engine: str = DEFAULT_ENGINE
    ray_address: str | None = None
    imports: str | Sequence[str] = ()
    report: bool = True

    def part(self, cells: Sequence[T]) -> Sequence[T]:
        """The cells of the shard."""
        if self.shard is None:
            return cells
        match = re.fullmatch(r"(\d+)/(\d+)", str(self.shard))
        number, count = (int(match[1]), int(match[2])) if match else (0, 0)
        if not 1 <= number <= count:
            raise ProbeError(
                f"shard: expected i/n such as 2/5, from 1/n to n/n, got {self.shard!r}"
            )
        tasks = os.environ.get("SLURM_ARRAY_TASK_COUNT", str(count))
        if tasks != str(count):
            raise ProbeError(
                f"shard: {self.shard} is one of {count} parts, but SLURM's array has {tasks} "
                f"tasks: give --array=1-{count}, or "
                "--shard $SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT"
            )
        return cells[number - 1 :: count]


def names_of(value: str | Sequence[str]) -> list[str]:
    """One or several names as a list."""
    return [value] if isinstance(value, str) else list(value)
