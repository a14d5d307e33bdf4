"""Locks: who works on a cell. They end with the process that holds them, whatever ends it."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LOCKS = ".locks"


@contextlib.contextmanager
def locked(folder: Path, name: str, *, wait: bool = False) -> Iterator[bool]:
    """Hold a lock in the block; say whether it was to be had.

    It is the operating system's own (``flock``): it holds among all processes that see the folder,
    over network file systems too, and none is left behind by a process that was killed. The file
    tells people who holds it; the file alone means nothing.

    Parameters
    ----------
    folder : Path
        The zoo's.
    name : str
        What is locked.
    wait : bool
        Until it is to be had.
    """
    import fcntl  # there is none on Windows

    path = folder / LOCKS / f"{name}.lock"
    mode = fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:  # another process has just removed the folder
            continue
        try:
            fcntl.flock(descriptor, mode)
        except OSError:
            os.close(descriptor)
            yield False
            return
        try:
            current = os.path.samestat(os.fstat(descriptor), path.stat())
        except FileNotFoundError:
            current = False
        if current:
            break
        os.close(descriptor)  # the holder before us has removed it
    try:
        with contextlib.suppress(OSError):  # a full disk
            os.truncate(descriptor, 0)
            os.write(descriptor, json.dumps(_holder()).encode())
        yield True
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)
        with contextlib.suppress(OSError):  # others are held
            path.parent.rmdir()


def _holder() -> dict[str, Any]:
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {"pid": os.getpid(), "host": socket.gethostname(), "started": started}


def holders(folder: Path) -> dict[str, dict[str, Any]]:
    """Who holds which lock; the files of locks that nobody holds any more are removed."""
    held = {}
    for path in sorted((folder / LOCKS).glob("*.lock")):
        try:
            said = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            said = {}
        with locked(folder, path.stem) as free:
            if not free:
                held[path.stem] = said
    return held
