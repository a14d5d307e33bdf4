"""The zoo, from Python: many networks, each in a process of its own, none of them lost."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

import joblib
import torch

from ...errors import ProbeError, whole_number
from ...files import check_folder
from ...machine import free_memory
from ...runner.options import Options, OptionsGiven, takes_options
from .cells import Cell, list_cells
from .collection import Zoo
from .engines import ENGINES
from .estimate import BASE
from .folder import ZooStore, clean, note_asked, open_folder, write_tables
from .how import TIME_LIMIT, How, names_of
from .server import import_modules
from .supervise import Slot, Tell, supervise
from .work import Outcome, Store

_SHARE = 0.9  # of the free memory, for all cells together


def slots_of(how: How) -> list[Slot]:
    """Room for cells.

    Raises
    ------
    ProbeError
        If it is not what it should be, or there are no such GPUs.
    """
    jobs, gpus = whole_number(how.jobs, "jobs", 1), visible_gpus(how.gpus)
    cores = joblib.cpu_count()
    if os.environ.get("OMP_NUM_THREADS", "").isdigit():
        cores = min(cores, max(1, int(os.environ["OMP_NUM_THREADS"])) * jobs)
    together = len(gpus) or jobs
    threads = max(1, cores // together)
    free = free_memory()
    memory = int(free * _SHARE / together) if free else 0
    if how.memory is not None:
        memory = int(how.memory * 2**30)
        if memory <= BASE:
            raise ProbeError(
                f"memory: expected more than {BASE / 2**30:.1f} GiB, which a process takes "
                f"that has imported everything, got {how.memory}"
            )
    return [Slot(threads, memory, gpu) for gpu in gpus or [""] * jobs]


def visible_gpus(gpus: str | int | None) -> list[str]:
    """GPUs by the names that ``CUDA_VISIBLE_DEVICES`` takes.

    Raises
    ------
    ProbeError
        If there are no such.
    """
    if gpus is None:
        return []
    count = torch.cuda.device_count()
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [n.strip() for n in given.split(",")][:count] if given else [*map(str, range(count))]
    text = str(gpus)
    if not names:
        raise ProbeError(f"gpus {text}: this machine shows no GPU; leave it out, or give jobs")
    if text == "all":
        return names
    if "," not in text and text.isdigit() and 1 <= int(text) <= len(names):
        return names[: int(text)]
    picked = [part.strip() for part in text.split(",")]
    if "," in text and all(p.isdigit() and int(p) < len(names) for p in picked):
        return [names[int(p)] for p in dict.fromkeys(picked)]
    raise ProbeError(
        f"gpus: expected all, a number from 1 to {len(names)}, or numbers of GPUs such as 0,2, "
        f"got {text!r}"
    )


def run_cells(cells: Sequence[Cell], store: Store, how: How, options: Options, tell: Tell) -> None:
    """Run cells into a store by an engine.

    Raises
    ------
    ProbeError
        If something asked for can't be had, or the folder can't be written.
    """
    slots = slots_of(how)
    engine = ENGINES.find(how.engine)(
        names_of(how.imports), address=how.ray_address, threads=slots[0].threads
    )
    supervise(
        cells,
        store,
        engine,
        slots[:1] if how.engine == "inside" else slots,
        time_limit=how.time_limit,
        batch_size=options.batch_size,
        tell=tell,
        retry=frozenset(names_of(how.retry)),
    )


def plan_cells(models: str | Sequence[str], how: How, options: dict[str, Any]) -> Sequence[Cell]:
    """List the cells that are asked for, once the user's modules are imported."""
    try:
        import_modules(names_of(how.imports))
    except ImportError as error:
        raise ProbeError(f"import: {error}") from error
    return how.part(list_cells(models, options, names_of(how.imports)))


def fill(
    cells: Sequence[Cell], out: Path, how: How, options: dict[str, Any], tell: Tell
) -> list[Cell]:
    """Run the cells of a zoo into its folder; return those that failed."""
    failed: list[Cell] = []

    def note(cell: Cell, outcome: Outcome) -> None:
        if outcome.status != "finished":
            failed.append(cell)
        tell(cell, outcome)

    check_folder(out)
    open_folder(out)
    note_asked(out, cells)
    try:
        run_cells(cells, ZooStore(out, how.report), how, Options.of(options), note)
    finally:
        clean(out)
        if how.shard is None:
            write_tables(out)
    return failed


@takes_options(
    *("weights", "variants", "layers", "targets", "stimuli", "train_images", "test_images"),
    *("precision", "image_size", "batch_size", "readout", "seed", "device", "progress"),
    *("kernel", "concat", "margin"),
)
def zoo(
    models: str | Sequence[str],
    out: str | Path = "zoo",
    *,
    jobs: int = 1,
    gpus: str | int | None = None,
    time_limit: float = TIME_LIMIT,
    memory: float | None = None,
    retry: str | Sequence[str] = (),
    shard: str | None = None,
    engine: str = "processes",
    ray_address: str | None = None,
    imports: str | Sequence[str] = (),
    report: bool = True,
    **options: Unpack[OptionsGiven],
) -> Zoo:
    """Probe many networks, each with each of the weights, in a process of its own.

    What is finished lies in the folder, and is never run again, whatever ended the zoo; called
    again, it goes on. A network that crashes, hangs, raises or takes too much memory is one
    failure, and the others go on. Several zoos into one folder share the work.

    Parameters
    ----------
    models : str or sequence of str
        timm names, globs such as ``resnet*``, or over pretrained tags ``resnet50.*``; ``hf-hub:``
        and ``local-dir:`` names; files with one a line.
    out : str or Path
        Folder of the zoo.
    jobs, gpus, time_limit, memory, retry, shard, engine, ray_address, imports, report
        How to run them, see :class:`probe.analyses.zoo.How`.
    {options}

    Returns
    -------
    Zoo
        What ``probe.load(out)`` returns.

    Raises
    ------
    ProbeError
        If something asked for does not exist or can't be had, or the folder can't be written.
    """
    how = How(*(jobs, gpus, time_limit, memory, retry, shard, engine, ray_address, imports, report))
    given = dict(options)
    fill(plan_cells(models, how, given), Path(out), how, given, lambda cell, outcome: None)
    return Zoo(out)
