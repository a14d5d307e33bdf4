"""The machine: exact float32, memory, the device and the versions that a result depends on."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pandas as pd
import scipy
import timm
import torch

from .errors import ProbeError
from .text import first_line


def pick_device(device: str | torch.device) -> torch.device:
    """Resolve ``auto`` to CUDA where there is one, else the CPU; refuse what isn't available."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen).cpu()
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        raise ProbeError(f"device {str(device)!r} is not available: {first_line(error)}") from None
    return chosen


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on."""
    from ._version import __version__

    python = {"position-probe": __version__, "python": platform.python_version()}
    return python | {m.__name__: str(m.__version__) for m in (torch, timm, np, scipy, pd)}


@contextmanager
def exact_float32() -> Iterator[None]:
    """Keep float32 products from being rounded to TF32 or bfloat16; as before afterwards."""
    backends = torch.backends
    if not hasattr(backends.cuda.matmul, "fp32_precision"):  # torch < 2.9
        settings = [(backends.cuda.matmul, "allow_tf32"), (backends.cudnn, "allow_tf32")]
        exact: bool | str = False
    else:
        cudnn, mkldnn = backends.cudnn, backends.mkldnn
        parts = ((backends.cuda, "matmul"), (cudnn, "conv"), (cudnn, "rnn"))
        parts += ((mkldnn, "matmul"), (mkldnn, "conv"))  # type: ignore[assignment]
        places = [getattr(backend, part) for backend, part in parts]
        settings = [(p, "fp32_precision") for p in places if hasattr(p, "fp32_precision")]
        exact = "ieee"
    before = [getattr(place, name) for place, name in settings]
    try:
        for place, name in settings:
            setattr(place, name, exact)
        yield
    finally:
        for (place, name), value in zip(settings, before, strict=True):
            setattr(place, name, value)


@contextmanager
def memory_explained(images: int) -> Iterator[None]:
    """Say what to do where memory runs out."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = str(error).lower()
        if not isinstance(error, MemoryError) and "memory" not in text:
            raise
        raise ProbeError(
            f"out of memory on a batch of {images} images: choose a smaller batch size, a "
            "smaller image size or fewer layers"
        ) from error


def device_name(device: torch.device, threads: int | None = None) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    threads = threads or torch.get_num_threads()
    return f"{device} ({threads} thread{'s' if threads > 1 else ''})"


def free_memory() -> int | None:
    """Bytes of memory that can be had, which on Linux includes what caches files.

    What a container or a batch system allows (control groups) counts too.
    """
    free: list[int] = []
    try:
        available = re.search(r"^MemAvailable: *(\d+) kB", Path("/proc/meminfo").read_text(), re.M)
        if available:
            free.append(int(available[1]) * 1024)
        else:
            free.append(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (ValueError, OSError, AttributeError):
        return None
    with suppress(ValueError, OSError, IndexError):
        root, own = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup").read_text().split("::", 1)[1]
        group = root / own.strip().lstrip("/")
        for place in (group, *group.parents):
            limit = (place / "memory.max").read_text().strip()
            if limit != "max":
                used = int((place / "memory.current").read_text())
                stat = (place / "memory.stat").read_text()
                cached = sum(map(int, re.findall(r"^(?:in)?active_file (\d+)", stat, re.M)))
                free.append(max(int(limit) - used + cached, 0))
            if place == root:
                break
    return min(free)
