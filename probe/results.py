"""Results: a record of a run that can draw, report and save itself."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .backbones.layer import GridLayer, Layer
from .certificates.certificate import Certificate
from .errors import ProbeError
from .files import json_bytes, npz_bytes, parquet_bytes, write_files
from .readouts.spec import readout_record
from .records.record import COLUMNS, PROFILE_COLUMNS, Condition, MapKey, PatternKey, command
from .records.store import CHANNELS_KEPT, load_pattern, number, quoted_layer
from .records.verdict import verdict_of
from .scores.patterns import Pattern
from .targets import layer_targets

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .analyses.calibration import Calibration

PLANTED = "planted.csv"
"""File of planted truth, beside the folders of results."""


@dataclass(frozen=True)
class Result:
    """What a run found out about one backbone.

    Attributes
    ----------
    table : DataFrame
        Tidy: one row per score, with columns :data:`COLUMNS`. ``metric`` is ``spc``, ``mae`` or
        ``r2``; ``control``, the SPC of the same readout on the control task, and ``selectivity``,
        SPC less control; for the target ``position``, ``error_px``, the median distance in pixels
        of the input between predicted and true place; for ``cells``, ``top1``. ``value`` is the
        mean over test images, ``low`` and ``high`` bound its 95 % bootstrap interval, ``chance`` is
        what knows nothing of position. ``difference`` is the value of the network as trained less
        this one, paired over images; ``padding_share`` what part that is of what the network as
        trained has beyond chance, see :func:`probe.tables.score_rows`. ``depth`` counts the probed
        layers in order of execution; the layer ``input``, of depth 0, is the pixels themselves.
    maps : dict
        Mean predicted map over test images, float32 of shape (h, w) with at most 28 places each
        way, by (weights, variant, layer, target).
    certificates : dict
        :class:`~probe.certificates.Certificate` by (weights, variant).
    provenance : dict
        Options, versions, origin and SHA-256 of the weights, regularisation, cautions, times.
    profile : DataFrame
        Tidy, with columns :data:`PROFILE_COLUMNS`: the mean absolute error of a readout over the
        places at a ``distance`` in pixels from the nearest border.
    pattern : dict
        :class:`~probe.patterns.Pattern` by (weights, variant, layer): mean maps of the channels,
        how much of each channel's variance is position's, and the layer's signal-to-noise ratio.
    attribution : DataFrame or None
        What ``probe attribute`` found out about the same model, see :func:`probe.attribute`.
    calibration : Calibration or None
        What ``probe calibrate`` measured on the same model and readout, see
        :func:`probe.calibrate`.
    planted : DataFrame or None
        Planted truth that ``probe calibrate`` recovered, see
        :func:`probe.planted.planted_truth`.
    """

    table: pd.DataFrame
    maps: dict[MapKey, NDArray[np.float32]]
    certificates: dict[Condition, Certificate]
    provenance: dict[str, Any]
    profile: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=PROFILE_COLUMNS))
    pattern: dict[PatternKey, Pattern] = field(default_factory=dict)
    attribution: pd.DataFrame | None = None
    calibration: Calibration | None = None
    planted: pd.DataFrame | None = None

    # ------------------------------------------------------------ what it says

    @property
    def model(self) -> str:
        """Name of the backbone."""
        return str(self.provenance["name"])

    @property
    def layers(self) -> list[str]:
        """Names of the probed layers in order of execution."""
        return list(dict.fromkeys(self.table.sort_values("depth", kind="stable")["layer"]))

    @property
    def targets(self) -> list[str]:
        """Names of the targets."""
        return list(self.provenance["options"]["targets"])

    @property
    def conditions(self) -> list[Condition]:
        """Every (weights, variant) of the run, in the order asked for."""
        return list(self.certificates)

    @property
    def differences(self) -> pd.DataFrame:
        """The network as trained less each variant: rows of the table that have a difference.

        Columns ``original`` (value as trained), ``value`` (of the variant), ``difference`` with
        ``low`` and ``high``, paired over the same test images, and ``padding_share`` with
        ``padding_share_low`` and ``padding_share_high`` where it is defined.
        """
        rows = self.table[self.table["difference"].notna()].drop(columns=["low", "high", "chance"])
        rows = rows.rename(columns={"difference_low": "low", "difference_high": "high"})
        place = list(rows.columns).index("value")
        rows.insert(place, "original", rows["value"] + rows["difference"])
        return rows.reset_index(drop=True)

    @property
    def channels(self) -> pd.DataFrame:
        """Every channel of every layer, with the share of its variance that position explains.

        Columns ``weights``, ``variant``, ``layer``, ``channel``, ``eta2`` and ``snr`` (of the whole
        layer); sort by ``eta2`` for the most position-tuned ones.
        """
        rows = [
            pd.DataFrame({"channel": np.arange(len(p.eta2)), "eta2": p.eta2, "snr": p.snr}).assign(
                weights=weights, variant=variant, layer=layer
            )
            for (weights, variant, layer), p in self.pattern.items()
        ]
        columns = ["weights", "variant", "layer", "channel", "eta2", "snr"]
        if not rows:
            return pd.DataFrame(columns=columns)
        return pd.concat(rows, ignore_index=True)[columns]

    def true_map(self, layer: str, target: str, variant: str | None = None) -> NDArray[np.float64]:
        """Return the target that a layer's readout was fitted to, shape (h, w), in [0, 1].

        Parameters
        ----------
        layer, target : str
            Which.
        variant : str, optional
            Under ``valid`` and a few others layers are of another size; the first by default.

        Raises
        ------
        ProbeError
            If the layer was not probed or there is no such target.
        """
        variant = variant or self.conditions[0][1]
        rows = self.table[(self.table["layer"] == layer) & (self.table["variant"] == variant)]
        if rows.empty:
            raise ProbeError(
                f"layer {layer!r} was not probed: expected one of {', '.join(self.layers)}"
            )
        row, options = rows.iloc[0], self.provenance["options"]
        size = tuple(options["image_size"])
        inset = self.provenance.get("insets", {}).get(variant, {}).get(layer, (0.0, 0.0))
        shape = (int(row["height"]), int(row["width"]))
        readout = readout_record(self.provenance)
        kind = GridLayer if readout["gridded"] else Layer
        seen = kind(layer, 1, 1, *shape, "NCHW", 0, size, tuple(inset))
        return layer_targets([target], size, *seen.windows(readout["kernel"]))[0]

    def verdict(self) -> list[str]:
        """Say in sentences what the run found: the strongest first, cautions after."""
        return verdict_of(self)

    def command(self) -> str:
        """Return the command that repeats the run; for a module, the call."""
        return command(self.provenance)

    # ------------------------------------------------------------ pictures

    def plot_layers(self, metric: str = "spc") -> Figure:
        """Plot the score by depth, a panel for each target, with interval bands.

        Parameters
        ----------
        metric : str
            ``spc``, ``mae``, ``r2``, ``control``, ``selectivity`` or ``error_px``.

        Returns
        -------
        matplotlib.figure.Figure
        """
        from .report.figures.depth import plot_layers

        return plot_layers(self, metric)

    def plot_profile(self, target: str | None = None) -> Figure:
        """Plot the readout error by distance to the nearest border, a panel for each layer.

        Parameters
        ----------
        target : str, optional
            Which target; the first by default.

        Returns
        -------
        matplotlib.figure.Figure
        """
        from .report.figures.profile import plot_profile

        return plot_profile(self, target)

    def plot_pattern(self, layer: str | None = None, channels: int = 8) -> Figure:
        """Plot the mean maps of a layer's most position-tuned channels under each variant.

        Parameters
        ----------
        layer : str, optional
            Which layer; by default the one with the highest SPC of the first weights and variant.
        channels : int
            How many.

        Returns
        -------
        matplotlib.figure.Figure
        """
        from .report.figures.maps import plot_pattern

        return plot_pattern(self, layer, channels)

    def plot_maps(self, layer: str | None = None) -> Figure:
        """Plot the mean predicted maps beside the true ones.

        Parameters
        ----------
        layer : str, optional
            Which layer; by default the one with the highest SPC of the first weights and variant.

        Returns
        -------
        matplotlib.figure.Figure
        """
        from .report.figures.maps import plot_maps

        return plot_maps(self, layer)

    def _repr_html_(self) -> str:
        from .report.page import fragment

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
        from .report.page import page

        path = Path(path)
        write_files(path.parent, {path.name: page(self).encode()})
        return path

    # ------------------------------------------------------------ files

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
        files = self._files()
        if report:
            from .report.page import page

            beside: dict[str, Any] = {}
            with suppress(ProbeError, LookupError):  # a damaged neighbour must not cost a run
                beside = tables_beside(Path(folder), self.provenance)
            files = {
                "report.html": page(dataclasses.replace(self, **beside)).encode(),
                **files,
            }
        write_files(Path(folder), files)
        return Path(folder)

    def _files(self) -> dict[str, bytes]:
        arrays = {
            "/".join([weights, variant, quoted_layer(layer), target]): value
            for (weights, variant, layer, target), value in self.maps.items()
        }
        kept: dict[str, NDArray[Any]] = {}
        for (weights, variant, layer), pattern in self.pattern.items():
            # The same channels under every variant, so that they can be compared.
            first = next(p for (w, _, n), p in self.pattern.items() if (w, n) == (weights, layer))
            there = set(pattern.channels.tolist())
            most = [c for c in first.tuned(len(first.eta2)) if int(c) in there][:CHANNELS_KEPT]
            small, name = pattern.keep(most), f"{weights}/{variant}/{quoted_layer(layer)}"
            for part in ("mean", "channels", "difference"):
                if getattr(small, part) is not None:
                    kept[f"{name}/{part}"] = getattr(small, part)
            ratios = (small.snr, small.difference_snr)
            kept[f"{name}/snr"] = np.array([np.nan if r is None else r for r in ratios])
        record = {
            **self.provenance,
            "certificates": [
                {"weights": weights, "variant": variant, **dataclasses.asdict(certificate)}
                for (weights, variant), certificate in self.certificates.items()
            ],
        }
        return {
            "scores.csv": self.table.to_csv(index=False).encode(),
            "scores.parquet": parquet_bytes(self.table),
            "profile.csv": self.profile.to_csv(index=False).encode(),
            "profile.parquet": parquet_bytes(self.profile),
            "channels.parquet": parquet_bytes(self.channels),
            "maps.npz": npz_bytes(arrays),
            "pattern.npz": npz_bytes(kept),
            "run.json": json_bytes(record),
        }


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
    folder = Path(folder)
    try:
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        # Results of version 0.2 have fewer columns and neither profile nor pattern.
        table = pd.read_parquet(folder / "scores.parquet").reindex(columns=COLUMNS)
        profile = pd.DataFrame(columns=PROFILE_COLUMNS)
        if (folder / "profile.parquet").exists():
            profile = pd.read_parquet(folder / "profile.parquet")
        with np.load(folder / "maps.npz", allow_pickle=False) as arrays:
            split = {key: key.rsplit("/", 3) for key in arrays.files}
            maps = {(w, v, unquote(n), t): arrays[key] for key, (w, v, n, t) in split.items()}
        pattern = load_pattern(folder)
        certificates = {}
        for entry in record.pop("certificates"):
            condition = (entry.pop("weights"), entry.pop("variant"))
            for key in ("shift", "image_size", "sources"):
                entry[key] = tuple(entry[key])
            for key in ("residual", "contrast"):
                entry[key] = number(entry[key])
            if entry["contact"] is not None:
                entry["contact"] = number(entry["contact"])
            entry["layers"] = {k: number(v) for k, v in entry["layers"].items()}
            certificates[condition] = Certificate(**entry)
        absent = {"options", "backbones", "stimuli", "name", "started"} - set(record)
        if absent:
            raise KeyError(f"run.json says nothing of {', '.join(sorted(absent))}")
        beside = tables_beside(folder, record)
    except FileNotFoundError as error:
        missing = Path(str(error.filename)).name
        raise ProbeError(f"{folder} holds no result of a run: {missing} is missing") from None
    except Exception as error:  # damaged archives raise whatever their bytes happen to ask for
        raise ProbeError(f"the result in {folder} can't be read: {error}") from error
    return Result(table, maps, certificates, record, profile, pattern, **beside)


def tables_beside(folder: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """Attribution and calibration that lie beside a result, if they are of weights that it has.

    A calibration has to be of the same readout too. Planted truth is of no network; it lies in the
    folder above.
    """
    from .analyses.attribution.attribution import load_attribution
    from .analyses.calibration import load_calibration

    hashes = {backbone["sha256"] for backbone in record["backbones"]}
    found: dict[str, Any] = {}
    if (folder / "attribution.json").exists():
        attribution = load_attribution(folder)
        if attribution.provenance["backbone"]["sha256"] in hashes:
            found["attribution"] = attribution.table
    if (folder / "calibration.json").exists():
        calibration = load_calibration(folder)
        about, options = calibration.provenance, record["options"]
        label = readout_record(record)["label"]
        same = (about["readout"], about["concat"]) == (label, bool(options.get("concat")))
        if about["sha256"] in hashes and same:
            found["calibration"] = calibration
    if (folder.parent / PLANTED).exists():
        found["planted"] = pd.read_csv(folder.parent / PLANTED)
    return found
