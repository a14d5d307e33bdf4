"""A zoo on disk, to look at from Python."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path

import pandas as pd

from ... import results
from ...errors import ProbeError
from ...results import Result
from .comparison import Compared, compare
from .curves import Curves
from .folder import is_zoo, keep_accuracy, read_curves, write_page
from .tables import CELLS, models_table, scores_table


class Zoo(Compared, Mapping[str, Result]):
    """What is known of many networks; a mapping from the name of a cell to its result.

    Attributes
    ----------
    folder : Path
        Where it lies.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not is_zoo(self.folder):
            raise ProbeError(f"{folder} holds no zoo: zoo.json is missing")

    def __repr__(self) -> str:
        failed = len(self.failures)
        return f"<Zoo in {self.folder}: {len(self)} cells finished, {failed} failed>"

    @functools.cached_property
    def table(self) -> pd.DataFrame:  # type: ignore[override]
        """One row per score of all cells, see :func:`probe.analyses.zoo.scores_table`."""
        return scores_table(self.folder)

    @functools.cached_property
    def models(self) -> pd.DataFrame:  # type: ignore[override]
        """One row per cell, see :func:`probe.analyses.zoo.models_table`."""
        return models_table(self.folder)

    @functools.cached_property
    def curves(self) -> Curves:  # type: ignore[override]
        """Scores by depth and by test image, see :data:`~probe.analyses.zoo.curves.Curves`."""
        return read_curves(self.folder, self.models)

    def to_html(self, accuracy: str | Path | None = None) -> Path:
        """Write the leaderboard ``index.html`` into the folder.

        Parameters
        ----------
        accuracy : str or Path, optional
            timm's ``results-imagenet.csv``, which is kept with the zoo.

        Raises
        ------
        ProbeError
            If it can't be read, or the page can't be written.
        """
        if accuracy is not None:
            keep_accuracy(self.folder, accuracy)
        return write_page(self.folder, self.models)

    @property
    def failures(self) -> pd.DataFrame:
        """Cells that failed, with kind and sentence."""
        columns = ["cell", "model", "weights", "kind", "sentence", "attempts"]
        models = self.models
        return models.loc[models["status"] == "failed", columns].reset_index(drop=True)

    def _finished(self) -> pd.Series:
        return self.models.loc[self.models["status"] == "finished", "cell"]

    def __getitem__(self, cell: str) -> Result:
        if cell not in set(self._finished()):
            raise KeyError(cell)
        return results.load(self.folder / CELLS / cell)

    def __iter__(self) -> Iterator[str]:
        return iter(self._finished())

    def __len__(self) -> int:
        return len(self._finished())


def load(folder: str | Path) -> Result | Zoo:
    """Read a result that ``probe run`` or :meth:`Result.save` wrote, or a zoo of ``probe zoo``.

    Parameters
    ----------
    folder : str or Path
        Where the files lie.

    Returns
    -------
    Result or Zoo

    Raises
    ------
    ProbeError
        If the folder does not hold one that is complete.
    """
    return Zoo(folder) if is_zoo(Path(folder)) else results.load(folder)


def open_compared(folder: Path) -> Compared:
    """Read a zoo, a result, or all results in the folders of a folder, as `probe run` writes them.

    Raises
    ------
    ProbeError
        If the folder holds none, or one that is not complete.
    """
    if is_zoo(folder):
        return Zoo(folder)
    places = [path.parent for path in sorted(folder.glob("*/run.json"))]
    if (folder / "run.json").exists() or not places:
        places = [folder]
    return compare([results.load(place) for place in places])
