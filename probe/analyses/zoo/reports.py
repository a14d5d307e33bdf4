"""The folder of reports of `probe run`, as a place for cells: a folder for each model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...backbones.weights import is_random
from ...files import folder_name
from ...records.store import finished_run, own_folder
from ...results import Result
from ...runner.options import Options
from .cells import Cell


@dataclass(frozen=True)
class ReportStore:
    """A folder of reports.

    Attributes
    ----------
    folder : Path
        Which.
    """

    folder: Path

    def place(self, cell: Cell) -> Path | None:
        """Where a finished run of a cell lies, if there is one."""
        by_name = all(w == "pretrained" or is_random(w) for w in cell.weights)
        usual = self.folder / folder_name(cell.model)
        return finished_run(usual, _asked(cell), None if by_name else cell.digest)

    def state(self, cell: Cell) -> str:
        """``finished`` or nothing: what failed is run again."""
        return "finished" if self.place(cell) else ""

    def keep(self, cell: Cell, result: Result, about: dict[str, Any]) -> None:
        """Put a result where it belongs; the cell's lock is held."""
        result.provenance.update(asked=_asked(cell), cell=cell.digest)
        usual = self.folder / folder_name(cell.model)
        result.save(own_folder(usual, result.provenance), report=True)

    def fail(self, cell: Cell, record: dict[str, Any], trace: str) -> None:
        """Keep nothing."""


def _asked(cell: Cell) -> str:
    return Options.of({**cell.options, "weights": cell.weights}).fingerprint()
