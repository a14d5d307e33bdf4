"""Results: the tidy table, the mean maps, certificates and provenance of a run; save and load."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import math
import os
import shlex
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .certificates import Certificate
from .errors import ProbeError
from .layers import Layer
from .targets import layer_targets
from .variants import parse_variant

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = [
    *("model", "weights", "variant", "stimuli", "readout"),
    *("layer", "depth", "channels", "height", "width", "target"),
    *("metric", "value", "low", "high"),
]
"""Columns of a result's table."""

KNOWS = 0.5
"""SPC from which the verdict says that a layer knows a target."""

_ROOM = 4 * 2**20  # bytes; a result with its report is smaller

Condition = tuple[str, str]
"""Weights and variant."""

MapKey = tuple[str, str, str, str]
"""Weights, variant, layer and target."""


@dataclass(frozen=True)
class Result:
    """What a run found out about one backbone.

    Attributes
    ----------
    table : DataFrame
        Tidy: one row per score, with columns :data:`COLUMNS`. ``metric`` is ``spc``, ``mae`` or
        ``r2``; ``value`` is its mean over test images, ``low`` and ``high`` bound its 95 %
        bootstrap interval; ``depth`` counts the probed layers in order of execution.
    maps : dict
        Mean predicted map over test images, float32 of shape (h, w) with at most 28 places each
        way, by (weights, variant, layer, target).
    certificates : dict
        :class:`~probe.certificates.Certificate` by (weights, variant).
    provenance : dict
        Options, versions, origin and SHA-256 of the weights, regularisation, cautions, times.
    """

    table: pd.DataFrame
    maps: dict[MapKey, NDArray[np.float32]]
    certificates: dict[Condition, Certificate]
    provenance: dict[str, Any]

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
        row = rows.iloc[0]
        size = tuple(self.provenance["options"]["image_size"])
        inset = self.provenance.get("insets", {}).get(variant, {}).get(layer, (0.0, 0.0))
        shape = (int(row["height"]), int(row["width"]))
        seen = Layer(layer, 1, 1, *shape, "NCHW", 0, size, tuple(inset))
        return layer_targets([target], size, seen.rows, seen.columns)[0]

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
            ``spc``, ``mae`` or ``r2``.

        Returns
        -------
        matplotlib.figure.Figure
        """
        from .report.figures import plot_layers

        return plot_layers(self, metric)

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
        """Write ``scores.csv``, ``scores.parquet``, ``maps.npz`` and ``run.json``.

        Each file is complete or not there; ``run.json``, without which nothing counts as a
        result, comes last.

        Parameters
        ----------
        folder : str or Path
            Made if missing.
        report : bool
            Write ``report.html`` too.

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

            files = {"report.html": html.page(self).encode(), **files}
        write_files(Path(folder), files)
        return Path(folder)

    def _files(self) -> dict[str, bytes]:
        arrays, parquet = io.BytesIO(), io.BytesIO()
        np.savez_compressed(arrays, **{"/".join(key): value for key, value in self.maps.items()})
        self.table.to_parquet(parquet, index=False)
        record = {
            **self.provenance,
            "certificates": [
                {"weights": weights, "variant": variant, **dataclasses.asdict(certificate)}
                for (weights, variant), certificate in self.certificates.items()
            ],
        }
        return {
            "scores.csv": self.table.to_csv(index=False).encode(),
            "scores.parquet": parquet.getvalue(),
            "maps.npz": arrays.getvalue(),
            "run.json": json.dumps(_plain(record), indent=1, ensure_ascii=False).encode() + b"\n",
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
        table = pd.read_parquet(folder / "scores.parquet")
        with np.load(folder / "maps.npz", allow_pickle=False) as arrays:
            maps = {tuple(key.rsplit("/", 3)): arrays[key] for key in arrays.files}
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
    except FileNotFoundError as error:
        missing = Path(str(error.filename)).name
        raise ProbeError(f"{folder} holds no result of a run: {missing} is missing") from None
    except zipfile.BadZipFile as error:
        raise ProbeError(f"the result in {folder} can't be read: maps.npz is damaged") from error
    except (OSError, ValueError, LookupError, TypeError, AttributeError, EOFError) as error:
        raise ProbeError(f"the result in {folder} can't be read: {error}") from error
    return Result(table, maps, certificates, record)


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files whole: all to temporary names first, then each moved to its place in order.

    Raises
    ------
    ProbeError
        If there is no room or permission; nothing is left half-written.
    """
    waiting: list[tuple[str, Path]] = []
    made = [p for p in (folder, *folder.parents) if not p.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        mask = os.umask(0)
        os.umask(mask)
        for name, content in files.items():
            descriptor, temporary = tempfile.mkstemp(prefix=f".{name}.", dir=folder)
            waiting.append((temporary, folder / name))
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o666 & ~mask)
        while waiting:
            os.replace(*waiting[0])
            waiting.pop(0)
    except OSError as error:
        raise ProbeError(
            f"can't write to {str(folder)!r}: {error.strerror or error}; "
            "choose another output folder"
        ) from error
    finally:
        for temporary, _ in waiting:
            Path(temporary).unlink(missing_ok=True)
        for empty in made:
            with contextlib.suppress(OSError):  # holds what was written, or was never made
                empty.rmdir()


def check_folder(folder: Path) -> None:
    """Find out before a long run whether its results can be written; leaves nothing behind.

    Raises
    ------
    ProbeError
        If there is no room or permission.
    """
    try:
        there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(bytes(_ROOM))
            file.flush()
    except OSError as error:
        raise ProbeError(
            f"can't write to {str(folder)!r}: {error.strerror or error}; "
            "choose another output folder"
        ) from error


# ---------------------------------------------------------------- words


def short_name(weights: str) -> str:
    """Weights as figures name them: the file's name of a path."""
    return Path(weights).name if "/" in weights or "\\" in weights else weights


def interval(value: float, low: float, high: float) -> str:
    """Write a score with its interval: ``0.98 [0.97, 0.99]``."""
    if math.isnan(low) or math.isnan(high):
        return _signed(value)
    return f"{_signed(value)} [{_signed(low)}, {_signed(high)}]"


def _signed(value: float) -> str:
    text = f"{value:.2f}".replace("-0.00", "0.00")
    return text.replace("-", "−")


def _spc(result: Result) -> pd.DataFrame:
    rows = result.table[result.table["metric"] == "spc"]
    columns = ["weights", "variant", "layer", "target"]
    return rows.set_index(columns)[["value", "low", "high"]].sort_index()


_KNOWLEDGE = {
    "horizontal": "its horizontal position",
    "vertical": "its vertical position",
    "gaussian": "its distance from the centre",
    "horizontal_stripes": "the horizontal stripes",
    "vertical_stripes": "the vertical stripes",
}


def _verdict(result: Result) -> list[str]:
    spc = _spc(result)
    conditions = result.conditions
    weights = list(dict.fromkeys(w for w, _ in conditions))
    variants = list(dict.fromkeys(v for _, v in conditions))
    reference = "original" if "original" in variants else variants[0]
    first = ("circular", "canvas", "valid", *variants)
    removal = next((v for v in first if v in variants and v != reference), None)
    sentences = []

    for w in weights:
        mine = spc.loc[(w, reference)]
        layer, target = mine["value"].idxmax()
        best = mine.loc[(layer, target)]
        # Of many intervals about 0 some exclude it by chance; a certificate does not.
        certified = result.certificates[(w, reference)].passed
        who = f"{layer} ({short_name(w)} weights)" if len(weights) > 1 else layer
        score = interval(*best)
        shown = math.isnan(best["low"]) or best["low"] > 0
        if certified:
            text = (
                f"No layer knows its position under {short_name(w)} weights, {reference}: the "
                f"network is translation equivariant, highest SPC {score}"
            )
        elif shown and best["value"] >= KNOWS:
            text = f"{who} knows {_KNOWLEDGE[target]}: SPC {score}"
        elif shown:
            text = f"{who} hints at {_KNOWLEDGE[target]}: SPC {score}, the highest of all layers"
        else:
            text = f"No layer shows its position under {short_name(w)} weights: highest SPC {score}"
        if removal is not None:
            bare = spc.loc[(w, removal, layer, target)]
            text += f"; {_how(removal)} {interval(*bare)}"
        sentences.append(text + ".")

    for w in weights if removal is not None else ():
        gone = spc.loc[(w, removal)]
        holds = int(((gone["low"] <= 0) & (gone["high"] >= 0)).sum())
        extreme = float(gone["value"].abs().max())
        who = f"{short_name(w)} weights" if len(weights) > 1 else "the network"
        counted = f"; {holds} of {len(gone)} intervals contain 0"
        sentences.append(
            f"{_how(removal).capitalize()} {who} leave{'s' * (len(weights) == 1)} "
            f"|SPC| ≤ {math.ceil(extreme * 100 - 1e-9) / 100:.2f} at every layer and target"
            f"{'' if gone['low'].isna().any() else counted}."
        )

    for (w, v), certificate in result.certificates.items():
        if v == reference == "original":
            continue
        who = f"{v}, {short_name(w)} weights"
        if certificate.passed:
            sentences.append(
                f"Certificate of {who}: passes, equivariance residual "
                f"{certificate.residual:.1e} ≤ {certificate.threshold:.0e}."
            )
        elif parse_variant(v).removes_padding:
            sentences.append(
                f"Certificate of {who}: fails ({certificate.reason}); "
                "position that this variant still shows is not ruled out to be padding's."
                if math.isnan(certificate.residual) or certificate.residual <= certificate.threshold
                else f"Certificate of {who}: fails, equivariance residual "
                f"{certificate.residual:.1e}: {certificate.reason}. A source of position is left."
            )
        if certificate.contact == 0:
            sentences.append(
                f"Canvas of {who}: with a margin of {certificate.margin} pixels nothing that "
                "padding writes reaches the probed region."
            )
        elif certificate.contact is not None:
            sentences.append(
                f"Caution: on the canvas of {who} padding still reaches the probed region "
                f"(contact {certificate.contact:.1e} at a margin of {certificate.margin} pixels): "
                "some operation spans the whole image, or the margin is too small."
            )
    sentences += _random_beats_trained(result, spc, weights, reference)
    return sentences


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
    result: Result, spc: pd.DataFrame, weights: Iterable[str], reference: str
) -> list[str]:
    """A network that was never trained may encode more position; a reader must not miss it."""
    trained = [w for w in weights if w != "random"]
    if "random" not in weights or not trained:
        return []
    sentences = []
    for w in trained:
        more = [
            (layer, target)
            for layer in result.layers
            for target in result.targets
            if spc.loc[("random", reference, layer, target), "low"]
            > spc.loc[(w, reference, layer, target), "high"]
        ]
        if not more:
            continue
        gain = {
            k: spc.loc[("random", reference, *k), "value"] - spc.loc[(w, reference, *k), "value"]
            for k in more
        }
        layer, target = max(gain, key=gain.__getitem__)
        ours = interval(*spc.loc[("random", reference, layer, target)])
        theirs = interval(*spc.loc[(w, reference, layer, target)])
        count = len(result.layers) * len(result.targets)
        sentences.append(
            f"Caution: random weights encode more position than {short_name(w)} ones in "
            f"{len(more)} of {count} layers and targets, most at {layer}, {target}: "
            f"SPC {ours} against {theirs}. There, position owes nothing to training."
        )
    return sentences


def _command(provenance: Mapping[str, Any]) -> str:
    options = dict(provenance["options"])
    own = {k: v for k in ("name", "mean", "std") if (v := options.pop(k)) is not None}
    if options.get("margin") is None:
        options.pop("margin", None)
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
        else:
            words += [flag, ",".join(map(str, values))]
    return shlex.join(words)


# ---------------------------------------------------------------- JSON


def _plain(value: Any) -> Any:
    """Turn a value into what JSON knows; NaN and infinities into strings."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    convert: Callable[[], Any] | None = getattr(value, "item", None)
    return convert() if callable(convert) else value


def _number(value: Any) -> float:
    return float(value)
