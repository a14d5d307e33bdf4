"""Results: the tidy table, the mean maps, certificates and provenance of a run; save and load."""

from __future__ import annotations

import dataclasses
import json
import math
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .backbones import is_random
from .certificates import Certificate
from .errors import ProbeError
from .files import json_bytes, npz_bytes, parquet_bytes, write_files
from .layers import GridLayer, Layer
from .patterns import Pattern
from .targets import layer_targets
from .variants import parse_variant

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .calibration import Calibration

COLUMNS = [
    *("model", "weights", "variant", "stimuli", "readout"),
    *("layer", "depth", "channels", "height", "width", "target"),
    *("metric", "value", "low", "high", "chance"),
    *("difference", "difference_low", "difference_high"),
    *("padding_share", "padding_share_low", "padding_share_high"),
]
"""Columns of a result's table."""

PROFILE_COLUMNS = [
    *("model", "weights", "variant", "stimuli", "readout", "layer", "depth", "target"),
    *("distance", "places", "error", "low", "high", "chance"),
]
"""Columns of a result's profile."""

CHANNELS_KEPT = 16
"""Channels of each layer whose mean maps are saved: those most tuned to position."""

KNOWS = 0.5
"""SPC from which the verdict says that a layer knows a target."""

LOCATES = 0.75
"""Part of the localisation error of chance below which the verdict quotes a layer's."""

PLANTED = "planted.csv"
"""File of planted truth, beside the folders of results."""

Condition = tuple[str, str]
"""Weights and variant."""

MapKey = tuple[str, str, str, str]
"""Weights, variant, layer and target."""

PatternKey = tuple[str, str, str]
"""Weights, variant and layer."""


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
        gridded = options.get("concat") or options["readout"] == "posenet"
        kind = GridLayer if gridded else Layer
        seen = kind(layer, 1, 1, *shape, "NCHW", 0, size, tuple(inset))
        kernel = 3 if options["readout"] == "posenet" else options.get("kernel") or 1
        return layer_targets([target], size, *seen.windows(kernel))[0]

    def verdict(self) -> list[str]:
        """Say in sentences what the run found: the strongest first, cautions after."""
        return _verdict(self)

    def command(self) -> str:
        """Return the command that repeats the run; for a module, the call."""
        return _command(self.provenance)

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
        from .report.figures import plot_layers

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
        from .report.figures import plot_profile

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
        from .report.figures import plot_pattern

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
        from .report.figures import plot_maps

        return plot_maps(self, layer)

    def _repr_html_(self) -> str:
        from .report import html

        return html.fragment(self)

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
        from .report import html

        path = Path(path)
        write_files(path.parent, {path.name: html.page(self).encode()})
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
            from .report import html

            beside: dict[str, Any] = {}
            with suppress(ProbeError, LookupError):  # a damaged neighbour must not cost a run
                beside = _beside(Path(folder), self.provenance)
            files = {
                "report.html": html.page(dataclasses.replace(self, **beside)).encode(),
                **files,
            }
        write_files(Path(folder), files)
        return Path(folder)

    def _files(self) -> dict[str, bytes]:
        arrays = {
            "/".join([weights, variant, _quoted(layer), target]): value
            for (weights, variant, layer, target), value in self.maps.items()
        }
        kept: dict[str, NDArray[Any]] = {}
        for (weights, variant, layer), pattern in self.pattern.items():
            # The same channels under every variant, so that they can be compared.
            first = next(p for (w, _, n), p in self.pattern.items() if (w, n) == (weights, layer))
            there = set(pattern.channels.tolist())
            most = [c for c in first.tuned(len(first.eta2)) if int(c) in there][:CHANNELS_KEPT]
            small, name = pattern.keep(most), f"{weights}/{variant}/{_quoted(layer)}"
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
        pattern = _load_pattern(folder)
        certificates = {}
        for entry in record.pop("certificates"):
            condition = (entry.pop("weights"), entry.pop("variant"))
            for key in ("shift", "image_size", "sources"):
                entry[key] = tuple(entry[key])
            for key in ("residual", "contrast"):
                entry[key] = _number(entry[key])
            if entry["contact"] is not None:
                entry["contact"] = _number(entry["contact"])
            entry["layers"] = {k: _number(v) for k, v in entry["layers"].items()}
            certificates[condition] = Certificate(**entry)
        absent = {"options", "backbones", "stimuli", "name", "started"} - set(record)
        if absent:
            raise KeyError(f"run.json says nothing of {', '.join(sorted(absent))}")
        beside = _beside(folder, record)
    except FileNotFoundError as error:
        missing = Path(str(error.filename)).name
        raise ProbeError(f"{folder} holds no result of a run: {missing} is missing") from None
    except Exception as error:  # damaged archives raise whatever their bytes happen to ask for
        raise ProbeError(f"the result in {folder} can't be read: {error}") from error
    return Result(table, maps, certificates, record, profile, pattern, **beside)


def _beside(folder: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """Attribution and calibration that lie beside a result, if they are of weights that it has.

    A calibration has to be of the same readout too. Planted truth is of no network; it lies in the
    folder above.
    """
    from .attribution import load_attribution  # these need results
    from .calibration import load_calibration

    hashes = {backbone["sha256"] for backbone in record["backbones"]}
    found: dict[str, Any] = {}
    if (folder / "attribution.json").exists():
        attribution = load_attribution(folder)
        if attribution.provenance["backbone"]["sha256"] in hashes:
            found["attribution"] = attribution.table
    if (folder / "calibration.json").exists():
        calibration = load_calibration(folder)
        about, options = calibration.provenance, record["options"]
        label = readout_label(options["readout"], options.get("kernel"))
        same = (about["readout"], about["concat"]) == (label, bool(options.get("concat")))
        if about["sha256"] in hashes and same:
            found["calibration"] = calibration
    if (folder.parent / PLANTED).exists():
        found["planted"] = pd.read_csv(folder.parent / PLANTED)
    return found


def _load_pattern(folder: Path) -> dict[PatternKey, Pattern]:
    if not (folder / "pattern.npz").exists():
        return {}
    channels = pd.read_parquet(folder / "channels.parquet")
    eta2 = dict(iter(channels.groupby(["weights", "variant", "layer"], sort=False)["eta2"]))
    found: dict[PatternKey, Pattern] = {}
    with np.load(folder / "pattern.npz", allow_pickle=False) as arrays:
        for name in arrays.files:
            stem, part = name.rsplit("/", 1)
            if part != "snr":
                continue
            weights, variant, layer = stem.rsplit("/", 2)
            key = (weights, variant, unquote(layer))
            snr, difference_snr = (float(v) for v in arrays[name])
            apart = f"{stem}/difference"
            paired = apart in arrays.files
            found[key] = Pattern(
                mean=arrays[f"{stem}/mean"],
                channels=arrays[f"{stem}/channels"],
                eta2=eta2[key].to_numpy(),
                snr=snr,
                difference=arrays[apart] if paired else None,
                difference_snr=difference_snr if paired else None,
            )
    return found


def _quoted(layer: str) -> str:
    """A layer's name without the slash that separates the parts of a key."""
    return quote(layer, safe="")


# ---------------------------------------------------------------- words


def readout_label(readout: str, kernel: int | None) -> str:
    """What tables call a readout."""
    return f"{readout}(kernel=3)" if (readout, kernel) == ("ridge", 3) else readout


def short_name(weights: str) -> str:
    """Weights as figures name them: the file's name of a path."""
    return Path(weights).name if "/" in weights or "\\" in weights else weights


def number_text(value: float, form: str = ".2f") -> str:
    """A number with a proper minus, none before 0, and a dash for none."""
    if np.isnan(value):
        return "–"
    if np.isinf(value):
        return "∞"
    text = format(value, form)
    if float(text) == 0:
        text = text.lstrip("-")
    return text.replace("-", "−")


def interval(value: float, low: float, high: float) -> str:
    """Write a score with its interval: ``0.98 [0.97, 0.99]``."""
    if math.isnan(low) or math.isnan(high):
        return _signed(value)
    return f"{_signed(value)} [{_signed(low)}, {_signed(high)}]"


def _signed(value: float) -> str:
    text = f"{value:.2f}".replace("-0.00", "0.00")
    return text.replace("-", "−")


_SPC_COLUMNS = [
    *("value", "low", "high", "difference", "difference_low", "difference_high", "padding_share"),
]


def _spc(result: Result) -> pd.DataFrame:
    rows = result.table[result.table["metric"] == "spc"]
    columns = ["weights", "variant", "layer", "target"]
    return rows.set_index(columns)[_SPC_COLUMNS].sort_index()


KNOWLEDGE = {
    "horizontal": "its horizontal position",
    "vertical": "its vertical position",
    "gaussian": "its distance from the centre",
    "horizontal_stripes": "the horizontal stripes",
    "vertical_stripes": "the vertical stripes",
}


def families(weights: Iterable[str]) -> dict[str, list[str]]:
    """Group weights: all random draws together, every other on its own."""
    found: dict[str, list[str]] = {}
    for w in dict.fromkeys(weights):
        found.setdefault("random" if is_random(w) else w, []).append(w)
    return found


def _verdict(result: Result) -> list[str]:
    spc = _spc(result)
    layers = [layer for layer in result.layers if layer != "input"]
    variants = list(dict.fromkeys(v for _, v in result.conditions))
    groups = families(w for w, _ in result.conditions)
    reference = "original" if "original" in variants else variants[0]
    first = ("circular", "canvas", "valid", *variants)
    removal = next((v for v in first if v in variants and v != reference), None)
    sentences = []
    for group, members in groups.items():
        sentences += _knowledge(result, spc, group, members, layers, reference, removal, groups)
    sentences += _pixels(result, spc, reference)
    for members in groups.values() if removal is not None else ():
        sentences.append(_removal(result, spc, members, layers, removal, groups))

    for v in variants:
        for group, members in groups.items() if not v == reference == "original" else ():
            found = {w: result.certificates[w, v] for w in members if (w, v) in result.certificates}
            sentences += _certified(v, group, found)
    sentences += _random_beats_trained(spc, groups, layers, result.targets, reference)
    return sentences


def _knowledge(
    result: Result,
    spc: pd.DataFrame,
    group: str,
    members: Sequence[str],
    layers: Sequence[str],
    reference: str,
    removal: str | None,
    groups: Mapping[str, Sequence[str]],
) -> Iterator[str]:
    """What the layers know, best first, and how much of it goes with padding."""
    mine = spc.loc[(list(members), [reference], list(layers)), :]
    w, _, layer, target = mine["value"].idxmax()
    best = mine.loc[(w, reference, layer, target)]
    # Of many intervals about 0 some exclude it by chance; a certificate does not.
    certified = result.certificates[(w, reference)].passed
    named = f"{short_name(w)} weights"
    if len(members) > 1:
        named = f"{short_name(group)} weights, the best of {len(members)} seeds"
    who = f"{layer} ({named})" if len(groups) > 1 else layer
    score = interval(*best[["value", "low", "high"]])
    shown = math.isnan(best["low"]) or best["low"] > 0
    if certified:
        text = (
            f"No layer knows its position under {short_name(group)} weights, {reference}: the "
            f"network is translation equivariant, highest SPC {score}"
        )
    elif shown and best["value"] >= KNOWS:
        text = f"{who} knows {KNOWLEDGE[target]}: SPC {score}"
    elif shown:
        text = f"{who} hints at {KNOWLEDGE[target]}: SPC {score}, the highest of all layers"
    else:
        text = f"No layer shows its position under {named}: highest SPC {score}"
    if removal is not None:
        bare = spc.loc[(w, removal, layer, target)]
        text += f"; {_how(removal)} {interval(*bare[['value', 'low', 'high']])}"
        if shown and not certified and not math.isnan(bare["difference"]):
            names = ["difference", "difference_low", "difference_high"]
            text += f", a difference of {interval(*bare[names])}"
        if not math.isnan(bare["padding_share"]):
            text += f": {_percent(bare['padding_share'])} of it came from padding"
    yield text + "."

    rows = result.table[
        (result.table["metric"] == "error_px")
        & (result.table["weights"] == w)
        & (result.table["layer"] != "input")
    ]
    there = rows[rows["variant"] == reference]
    if there.empty or certified:
        return
    nearest = there.loc[there["value"].idxmin()]
    if not nearest["value"] < LOCATES * nearest["chance"] or nearest["high"] > nearest["chance"]:
        return
    side = max(result.provenance["options"]["image_size"])
    text = (
        f"{nearest['layer']}{f' ({named})' * (len(groups) > 1)} knows where it is to within "
        f"{nearest['value']:.0f} px of {side}"
    )
    if not math.isnan(nearest["low"]):
        text += f" [{max(nearest['low'], 0):.0f}, {nearest['high']:.0f}]"
    if removal is not None:
        bare = rows[(rows["variant"] == removal) & (rows["layer"] == nearest["layer"])].iloc[0]
        text += f"; {_how(removal)} {bare['value']:.0f} px"
        if not math.isclose(bare["chance"], nearest["chance"], rel_tol=0.05):
            text += f" of the middle alone, where chance is {bare['chance']:.0f} px"
    yield f"{text}; chance is {nearest['chance']:.0f} px."


def _pixels(result: Result, spc: pd.DataFrame, reference: str) -> Iterator[str]:
    """What can be read from the input itself."""
    w = result.conditions[0][0]
    if "input" not in result.layers:
        return
    mine = spc.loc[(w, reference, "input")]
    target = mine["value"].idxmax()
    best = mine.loc[target]
    score = interval(*best[["value", "low", "high"]])
    unsure = math.isnan(best["low"])
    if (best["low"] > 0 or unsure) and best["value"] > 0.1:
        yield (
            f"Caution: {KNOWLEDGE[target].replace('its ', '')} can be read from the pixels "
            f"themselves, SPC {score}: the stimuli carry position of their own."
        )
    else:
        little = "hardly any" if best["low"] > 0 or unsure else "no"
        yield f"From the pixels themselves {little} position can be read: highest SPC {score}."


def _removal(
    result: Result,
    spc: pd.DataFrame,
    members: Sequence[str],
    layers: Sequence[str],
    removal: str,
    groups: Mapping[str, Sequence[str]],
) -> str:
    gone = spc.loc[(list(members), removal, list(layers)), :]
    holds = int(((gone["low"] <= 0) & (gone["high"] >= 0)).sum())
    extreme = float(gone["value"].abs().max())
    who = "the network leaves"
    if len(groups) > 1:
        who = f"{short_name(members[0])} weights leave"
        if len(members) > 1:
            who = f"random weights ({len(members)} seeds) leave"
    counted = f"; {holds} of {len(gone)} intervals contain 0"
    if _is_null(result, members, removal):
        counted += " (about 95 % should)"
    return (
        f"{_how(removal).capitalize()} {who} "
        f"|SPC| ≤ {math.ceil(extreme * 100 - 1e-9) / 100:.2f} at every layer and target"
        f"{'' if gone['low'].isna().any() else counted}."
    )


def _is_null(result: Result, members: Sequence[str], variant: str) -> bool:
    """Whether there is no position to be found: neither the network's own nor the stimuli's."""
    found, stimuli = result.certificates.items(), result.provenance["stimuli"]
    return (
        parse_variant(variant).removes_padding
        and bool(stimuli["stationary"])
        and bool(stimuli["tileable"] or "circular" not in variant)
        and all(c.passed for (w, v), c in found if v == variant and w in members)
    )


def _certified(variant: str, group: str, found: Mapping[str, Certificate]) -> Iterator[str]:
    """What the certificates of one variant say; of several random draws the worst."""
    if not found:
        return
    failed = {w: c for w, c in found.items() if not c.passed}
    w, certificate = max((failed or found).items(), key=lambda item: _order(item[1].residual))
    who = f"{variant}, {short_name(w)} weights"
    if len(found) > 1:
        who = f"{variant}, {short_name(group)} weights ({len(found)} seeds)"
    if certificate.passed:
        yield (
            f"Certificate of {who}: passes, equivariance residual "
            f"{certificate.residual:.1e} ≤ {certificate.threshold:.0e}."
        )
    elif parse_variant(variant).removes_padding:
        if math.isnan(certificate.residual) or certificate.residual <= certificate.threshold:
            yield (
                f"Certificate of {who}: fails ({certificate.reason}); "
                "position that this variant still shows is not ruled out to be padding's."
            )
        else:
            yield (
                f"Certificate of {who}: fails, equivariance residual "
                f"{certificate.residual:.1e}: {certificate.reason}. A source of position is left."
            )
    touching = [c for c in found.values() if c.contact]
    if touching:
        worst = max(touching, key=lambda c: _order(c.contact or 0.0))
        yield (
            f"Caution: on the canvas of {who} padding still reaches the probed region "
            f"(contact {worst.contact:.1e} at a margin of {worst.margin} pixels): "
            "some operation spans the whole image, or the margin is too small."
        )
    elif certificate.contact == 0:
        yield (
            f"Canvas of {who}: with a margin of {certificate.margin} pixels nothing that "
            "padding writes reaches the probed region."
        )


def _order(value: float) -> float:
    return math.inf if math.isnan(value) else value


def _percent(share: float) -> str:
    return f"{number_text(100 * share, '.0f')} %"


def _how(variant: str) -> str:
    """How a verdict names what a variant did."""
    names = {
        "original": "as trained",
        "circular": "without padding",
        "canvas": "on a canvas",
        "valid": "without padding (valid)",
        "no_pos_embed": "without position embeddings",
        "shuffled_pos_embed": "with shuffled position embeddings",
    }
    parts = variant.split("+")
    return " and ".join(names.get(part, f"with {part} padding") for part in parts)


def _random_beats_trained(
    spc: pd.DataFrame,
    groups: Mapping[str, Sequence[str]],
    layers: Sequence[str],
    targets: Sequence[str],
    reference: str,
) -> Iterator[str]:
    """A network that was never trained may encode more position; a reader must not miss it."""
    drawn = groups.get("random")
    if not drawn:
        return
    cells = [(layer, target) for layer in layers for target in targets]
    for w in (w for group, members in groups.items() if group != "random" for w in members):
        more = {}
        for cell in cells:
            ours = spc.loc[(drawn, reference, *cell), :]
            theirs = spc.loc[(w, reference, *cell)]
            if ours["low"].min() > theirs["high"]:
                more[cell] = ours["value"].mean() - theirs["value"]
        if not more:
            continue
        layer, target = max(more, key=more.__getitem__)
        ours = spc.loc[(drawn, reference, layer, target), :]
        theirs = interval(*spc.loc[(w, reference, layer, target)][["value", "low", "high"]])
        shown = " / ".join(_signed(v) for v in ours["value"])
        seeds = f", with every one of {len(drawn)} seeds" * (len(drawn) > 1)
        yield (
            f"Caution: random weights encode more position than {short_name(w)} ones in "
            f"{len(more)} of {len(cells)} layers and targets{seeds}, most at {layer}, {target}: "
            f"SPC {shown} against {theirs}. There, position owes nothing to training."
        )


def _command(provenance: Mapping[str, Any]) -> str:
    options = dict(provenance["options"])
    own = {k: v for k in ("name", "mean", "std") if (v := options.pop(k)) is not None}
    for key in ("margin", "kernel"):
        if options.get(key) is None:
            options.pop(key, None)
    named = provenance["named_stimuli"]
    if provenance["module"] or own or not named:
        call = {
            "weights": options["weights"],
            **own,
            **{k: v for k, v in options.items() if k not in ("model", "weights")},
        }
        model = repr(options["model"])
        if provenance["module"]:
            model = "module"
            del call["weights"]
        words = [
            f"{k}={v!r}" if k != "stimuli" or named else "stimuli=stimuli" for k, v in call.items()
        ]
        return f"probe.run({', '.join([model, *words])})"
    words = ["probe", "run", options["model"]]
    for key, value in options.items():
        if key == "model":
            continue
        values = value if isinstance(value, list) else [value]
        flag = f"--{key.replace('_', '-')}"
        if key == "image_size":
            words += [flag, "x".join(map(str, dict.fromkeys(values)))]
        elif isinstance(value, bool):
            words.append(flag if value else f"--no-{flag[2:]}")
        else:
            words += [flag, ",".join(map(str, values))]
    return shlex.join(words)


def _number(value: Any) -> float:
    return float(value)
