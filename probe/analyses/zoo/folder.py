"""The folder of a zoo: each cell lies in it whole or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import ProbeError
from ...files import json_bytes, parquet_bytes, write_files
from ...results import Result
from .cells import Cell
from .locks import holders, locked
from .tables import (
    CELLS,
    FAILURE,
    SCHEMA,
    SUMMARY,
    TRACEBACK,
    cell_rows,
    models_table,
    read_row,
    scores_table,
    summarise,
)

ZOO = "zoo.json"


def open_folder(folder: Path) -> None:
    """Make the folder of a zoo, or find one, without what an interrupted zoo has left behind.

    Raises
    ------
    ProbeError
        If it was written by a later version of Probe, or can't be written.
    """
    try:
        schema = json.loads((folder / ZOO).read_text(encoding="utf-8"))["schema"]
    except FileNotFoundError:
        write_files(folder, {ZOO: json_bytes({"schema": SCHEMA})})
        schema = SCHEMA
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ProbeError(f"{folder / ZOO} can't be read ({error}): choose another folder") from None
    if schema > SCHEMA:
        raise ProbeError(f"{folder} was written by a later version of Probe: update it")
    clean(folder)


def is_zoo(folder: Path) -> bool:
    """Whether a folder holds a zoo."""
    return (folder / ZOO).is_file()


def clean(folder: Path) -> None:
    """Remove temporary files and locks of processes that are gone."""
    held = holders(folder)
    for path in [*(folder / CELLS).glob(".*.tmp"), *folder.glob(".*.tmp")]:
        name = path.name[1:].removesuffix(".tmp")
        if name not in held:
            with locked(folder, name) as free:
                if free:
                    shutil.rmtree(path, ignore_errors=True)


def place_of(folder: Path, cell: Cell) -> Path:
    """Return where a cell belongs."""
    return folder / CELLS / cell.name


def state_of(place: Path) -> str:
    """``finished``, ``failed`` or nothing."""
    row = read_row(place)
    return "" if row is None else str(row["status"])


def keep_result(result: Result, place: Path, about: Mapping[str, Any], report: bool) -> None:
    """Put a result where it belongs, whole; the caller holds the cell's lock."""
    temporary = _emptied(place)
    try:
        result.save(temporary, report=report)
        write_files(temporary, {SUMMARY: json_bytes(summarise(result, about))})
        _put(temporary, place)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def keep_failure(place: Path, record: Mapping[str, Any], traceback: str) -> None:
    """Put a failure where its cell belongs, whole; the caller holds the cell's lock."""
    temporary = _emptied(place)
    try:
        files = {TRACEBACK: traceback.encode(), FAILURE: json_bytes(record)}
        write_files(temporary, files)
        _put(temporary, place)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _emptied(place: Path) -> Path:
    temporary = place.with_name(f".{place.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    return temporary


def _put(temporary: Path, place: Path) -> None:
    """Move a whole folder to its place; a failure that lies there gives way."""
    try:
        if place.exists():
            shutil.rmtree(place)
        temporary.rename(place)
    except OSError as error:
        raise ProbeError(f"can't write to {str(place)!r}: {error.strerror or error}") from error


def write_tables(folder: Path) -> None:
    """Write ``zoo.parquet`` (scores) and ``models.parquet`` of all cells."""
    models, scores = models_table(folder), scores_table(folder)
    files = {"zoo.parquet": parquet_bytes(scores), "models.parquet": parquet_bytes(models)}
    write_files(folder, files)


def merge(folder: Path, others: list[Path]) -> int:
    """Take the cells of other zoos into one; what is finished stays. Returns how many came.

    Raises
    ------
    ProbeError
        If one of them is no zoo.
    """
    for other in others:
        if not is_zoo(other):
            raise ProbeError(f"{other} holds no zoo: expected a folder that `probe zoo` wrote")
    open_folder(folder)
    taken = 0
    for other in others:
        for path, row in cell_rows(other):
            place = folder / CELLS / path.name
            state = state_of(place)
            if state == "finished" or state == row["status"] == "failed":
                continue
            with locked(folder, path.name, wait=True):
                temporary = _emptied(place)
                shutil.copytree(path, temporary)
                _put(temporary, place)
            taken += 1
    return taken
