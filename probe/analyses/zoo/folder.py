"""The folder of a zoo: each cell lies in it whole or not at all."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ...errors import ProbeError
from ...files import json_bytes, parquet_bytes, unwritable, write_files
from ...results import Result
from .accuracy import read_accuracy
from .cells import Cell
from .curves import Curves, curves_of
from .locks import holders, locked
from .page import zoo_page
from .schema import SCHEMA, in_schema
from .tables import (
    CELLS,
    CURVES,
    FAILURE,
    SUMMARY,
    TRACEBACK,
    cell_rows,
    models_table,
    read_row,
    scores_table,
    summarise,
)

ZOO = "zoo.json"
ASKED = "asked"
ACCURACY = "accuracy.csv"


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


@dataclass(frozen=True)
class ZooStore:
    """The folder of a zoo, as the place where cells go.

    Attributes
    ----------
    folder : Path
        Which.
    report : bool
        Write a report for each.
    """

    folder: Path
    report: bool = True

    def place(self, cell: Cell) -> Path:
        """Folder of a cell."""
        return self.folder / CELLS / cell.name

    def state(self, cell: Cell) -> str:
        """``finished``, the kind of its failure, or nothing."""
        return state_of(self.place(cell))

    def keep(self, cell: Cell, result: Result, about: dict[str, Any]) -> None:
        """Put a result where it belongs, whole; the cell's lock is held."""
        keep_result(result, self.place(cell), about, self.report)

    def fail(self, cell: Cell, record: dict[str, Any], trace: str) -> None:
        """Put a failure where its cell belongs, whole; the cell's lock is held."""
        keep_failure(self.place(cell), record, trace)


def state_of(place: Path) -> str:
    """``finished``, the kind of a failure, or nothing."""
    row = read_row(place)
    return "" if row is None else str(row["kind"] or row["status"])


def keep_result(result: Result, place: Path, about: Mapping[str, Any], report: bool) -> None:
    """Put a result where it belongs, whole; the caller holds the cell's lock."""
    temporary = _emptied(place)
    try:
        result.save(temporary, report=report)
        curves = json.dumps(curves_of(result.table, result.per_image))
        summary = json_bytes(summarise(result, about))
        write_files(temporary, {CURVES: curves.encode(), SUMMARY: summary})
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
        raise unwritable(place, error) from error


def note_asked(folder: Path, cells: Sequence[Cell]) -> None:
    """Keep a list of the cells that were asked for, in a file of its own."""
    names = json.dumps([cell.name for cell in cells]).encode()
    write_files(folder / ASKED, {f"{hashlib.sha256(names).hexdigest()[:12]}.json": names})


def asked_cells(folder: Path) -> list[str]:
    """Names of all cells that were ever asked for in a folder."""
    names: dict[str, None] = {}
    for path in sorted((folder / ASKED).glob("*.json")):
        names |= dict.fromkeys(json.loads(path.read_text(encoding="utf-8")))
    return list(names)


def write_tables(folder: Path) -> None:
    """Write ``zoo.parquet`` (scores), ``models.parquet`` and ``index.html`` of all cells."""
    models, scores = models_table(folder), scores_table(folder)
    files = {
        "zoo.parquet": parquet_bytes(in_schema(scores, "scores")),
        "models.parquet": parquet_bytes(in_schema(models, "models")),
    }
    write_files(folder, files)
    write_page(folder, models)


def write_page(folder: Path, models: pd.DataFrame) -> Path:
    """Write the leaderboard, ``index.html``; accuracies that were kept are in it."""
    accuracy = read_accuracy(folder / ACCURACY) if (folder / ACCURACY).exists() else None
    page = zoo_page(models, read_curves(folder, models), accuracy, folder.resolve().name)
    write_files(folder, {"index.html": page.encode()})
    return folder / "index.html"


def read_curves(folder: Path, models: pd.DataFrame) -> Curves:
    """Read the scores by depth and by test image of all finished cells."""
    curves = {}
    for cell in models.loc[models["status"] == "finished", "cell"]:
        place = folder / CELLS / str(cell)
        try:
            curves[str(cell)] = json.loads((place / CURVES).read_text(encoding="utf-8"))
        except (OSError, ValueError):  # of an earlier version
            curves[str(cell)] = curves_of(pd.read_parquet(place / "scores.parquet"))
    return curves


def keep_accuracy(folder: Path, path: str | Path) -> None:
    """Keep timm's table of accuracies with a zoo, for its page.

    Raises
    ------
    ProbeError
        If it can't be read, or the folder can't be written.
    """
    table = read_accuracy(path)
    write_files(folder, {ACCURACY: table.to_csv(index=False).encode()})


def merge(folder: Path, others: Sequence[Path]) -> int:
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
        for file in sorted((other / ASKED).glob("*.json")):
            write_files(folder / ASKED, {file.name: file.read_bytes()})
        for path, row in cell_rows(other):
            place = folder / CELLS / path.name
            state = state_of(place)
            if state == "finished" or (state and row["status"] == "failed"):
                continue
            with locked(folder, path.name, wait=True):
                temporary = _emptied(place)
                try:
                    shutil.copytree(path, temporary)
                    _put(temporary, place)
                finally:
                    shutil.rmtree(temporary, ignore_errors=True)
            taken += 1
    return taken
