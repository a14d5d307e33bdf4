"""Results: a record of a run that can draw, report and save itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import nn

from .erasers.erase import erase
from .erasers.eraser import Eraser
from .errors import ProbeError, one_of
from .files import write_files
from .records.outline import outline
from .records.record import Record
from .records.store import read_record, record_files, tables_beside
from .records.verdict import verdict_of
from .report.figures.conditions import best_score
from .report.figures.depth import plot_layers
from .report.figures.maps import plot_maps, plot_pattern
from .report.figures.profile import plot_profile
from .report.page import fragment, page


@dataclass(frozen=True, eq=False, repr=False)
class Result(Record):
    """What a run found out about one backbone; see :class:`~probe.records.Record` for its data."""

    def verdict(self) -> list[str]:
        """Say in sentences what the run found: the strongest first, cautions after."""
        return verdict_of(self)

    @property
    def summary(self) -> dict[str, Any]:
        """What the run found, as plain data that JSON knows; see :func:`probe.records.outline`."""
        return outline(self)

    def plot_layers(
        self,
        metric: str = "spc",
        targets: str | Sequence[str] | None = None,
        *,
        width: float | None = None,
        ax: Axes | None = None,
    ) -> Figure | Axes:
        """Plot the score by depth, a panel for each target; see :func:`probe.plot_layers`."""
        return plot_layers(self.table, metric, targets, width=width, ax=ax)

    def plot_profile(
        self,
        target: str | None = None,
        layers: str | Sequence[str] | None = None,
        *,
        ax: Axes | None = None,
    ) -> Figure | Axes:
        """Plot the error by distance to the border; see :func:`probe.plot_profile`."""
        one_of(target or self.targets[0], self.targets, "target")
        return plot_profile(self.profile, target, layers, ax=ax)

    def plot_pattern(self, layer: str | None = None, channels: int = 8) -> Figure:
        """Plot the mean maps of a layer's most position-tuned channels under each variant.

        By default of the layer with the highest SPC; see :func:`probe.plot_pattern`.
        """
        layer = layer or best_score(self.table)[0]
        one_of(layer, self.layers, "layer")
        return plot_pattern(self.pattern, layer, channels, f"{self.model}, ")

    def plot_maps(self, layer: str | None = None) -> Figure:
        """Plot the mean predicted maps of a layer beside the true ones.

        By default of the layer with the highest SPC; see :func:`probe.plot_maps`.
        """
        layer = layer or best_score(self.table)[0]
        one_of(layer, self.layers, "layer")
        truth = {target: self.true_map(layer, target) for target in self.targets}
        return plot_maps(self.maps, truth, layer, f"{self.model}, ")

    def erase(
        self,
        layer: str,
        how: str = "project",
        *,
        model: str | nn.Module | None = None,
        **options: Any,
    ) -> Eraser:
        """Make an eraser of position at a layer; see :func:`probe.erase`.

        A result keeps no moments. The run's setup is opened again as its provenance says (model,
        first weights, images, size, seed, normalisation), and one pass gathers them.

        Parameters
        ----------
        layer : str
            One of :attr:`layers`.
        how : str
            ``mean``, ``project`` or ``constant``.
        model : str or Module, optional
            The network, where the run was given a module.
        **options
            Of :func:`probe.erase`, in place of the run's.

        Raises
        ------
        ProbeError
            If the layer was not probed, or network or images have to be given.
        """
        one_of(layer, self.layers, "layer")
        run = self.provenance["options"]
        names = ("targets", "image_size", "batch_size", "seed", "device", "name", "mean", "std")
        if run.get("forward_kwargs") and "forward_kwargs" not in options:
            raise ProbeError("forward_kwargs: the run was given some; give them here, too")
        again = {name: run[name] for name in names if run.get(name) is not None}
        for what, given in (("model", model is not None), ("stimuli", "stimuli" in options)):
            named = self.provenance.get("named_stimuli", True)
            kept = not self.provenance["module"] if what == "model" else named
            if not (given or kept):
                raise ProbeError(f"{what}: the run was given one from Python; give it here, too")
        if model is None:
            model, again["weights"] = run["model"], run["weights"][0]
        if "stimuli" not in options:
            again["stimuli"] = run["stimuli"]
        return erase(model, [layer], how=how, **{**again, **options})[layer]

    def _repr_html_(self) -> str:
        return fragment(self)

    def to_html(self, path: str | Path) -> Path:
        """Write the report: one HTML file that needs nothing else.

        Parameters
        ----------
        path : str or Path
            Its folder is made if missing.

        Returns
        -------
        Path
            Where it is.

        Raises
        ------
        ProbeError
            If the file can't be written.
        """
        path = Path(path)
        write_files(path.parent, {path.name: page(self).encode()})
        return path

    def save(self, folder: str | Path, *, report: bool = False) -> Path:
        """Write the result's files.

        ``scores`` and ``profile`` as ``.csv`` and ``.parquet``, ``channels.parquet``, ``maps.npz``,
        ``pattern.npz`` (mean maps of the 16 most position-tuned channels) and ``run.json``.

        Each file is complete or not there; ``run.json``, without which nothing counts as a
        result, comes last.

        Parameters
        ----------
        folder : str or Path
            Made if missing.
        report : bool
            Write ``report.html`` too, with the attribution and the calibration that lie in the
            folder, if they are of the same weights, and the planted truth that lies beside it.

        Returns
        -------
        Path
            The folder.

        Raises
        ------
        ProbeError
            If it can't be written.
        """
        record: Record = self
        files = record_files(self)
        if report:
            with suppress(ProbeError, LookupError):  # a damaged neighbour must not cost a run
                record = dataclasses.replace(self, **tables_beside(Path(folder), self.provenance))
            files = {"report.html": page(record).encode(), **files}
        write_files(Path(folder), files)
        return Path(folder)


def load(folder: str | Path) -> Result:
    """Read a result that :meth:`Result.save` or ``probe run`` wrote.

    Parameters
    ----------
    folder : str or Path
        Where the result's files lie.

    Returns
    -------
    Result

    Raises
    ------
    ProbeError
        If the folder does not hold a complete result.
    """
    return Result(**read_record(folder))
