"""Records as files: arrays, tables and run.json, written whole and read back."""

from __future__ import annotations

import dataclasses
import glob
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from ..certificates.certificate import Certificate
from ..errors import ProbeError
from ..files import json_bytes, npz_bytes, parquet_bytes, plain, png_bytes
from ..machine import versions
from ..readouts.base import Readout
from ..readouts.spec import READOUTS, readout_record
from ..scores.patterns import Pattern
from ..targets import note_earlier_targets
from .attribution import read_attribution
from .calibration import load_calibration
from .erasure import RECORD_FILE as ERASURE
from .erasure import read_erasure
from .record import COLUMNS, PADDING_SHARE, PROFILE_COLUMNS, SHARE, PatternKey, Record

PLANTED = "planted.csv"
"""File of planted truth, beside the folders of results."""

PICTURE = "stimuli.png"
"""File of the picture of the stimuli."""

CHANNELS_KEPT = 16
"""Channels of each layer whose mean maps are saved: those most tuned to position."""


def record_files(record: Record) -> dict[str, bytes]:
    """Return the files of a record; ``run.json``, without which nothing counts, comes last."""
    arrays = {
        "/".join([weights, variant, quoted_layer(layer), target]): value
        for (weights, variant, layer, target), value in record.maps.items()
    }
    kept: dict[str, NDArray[Any]] = {}
    for (weights, variant, layer), pattern in record.pattern.items():
        # The same channels under every variant, so that they can be compared.
        first = next(p for (w, _, n), p in record.pattern.items() if (w, n) == (weights, layer))
        there = set(pattern.channels.tolist())
        most = [c for c in first.tuned(len(first.eta2)) if int(c) in there][:CHANNELS_KEPT]
        small, name = pattern.keep(most), f"{weights}/{variant}/{quoted_layer(layer)}"
        for part in ("mean", "channels", "difference"):
            if getattr(small, part) is not None:
                kept[f"{name}/{part}"] = getattr(small, part)
        ratios = (small.snr, small.difference_snr)
        kept[f"{name}/snr"] = np.array([np.nan if r is None else r for r in ratios])
    about = {
        **record.provenance,
        "certificates": [
            {"weights": weights, "variant": variant, **dataclasses.asdict(certificate)}
            for (weights, variant), certificate in record.certificates.items()
        ],
    }
    return {
        "scores.csv": record.table.to_csv(index=False).encode(),
        "scores.parquet": parquet_bytes(record.table),
        "profile.csv": record.profile.to_csv(index=False).encode(),
        "profile.parquet": parquet_bytes(record.profile),
        "channels.parquet": parquet_bytes(record.channels),
        "maps.npz": npz_bytes(arrays),
        "pattern.npz": npz_bytes(kept),
        "per_image.parquet": parquet_bytes(record.per_image),
        "readouts.npz": npz_bytes(
            {
                f"{weights}/{variant}/{quoted_layer(layer)}/{part}": array
                for (weights, variant, layer), readout in record.readouts.items()
                for part, array in readout.arrays().items()
            }
        ),
        **({"targets.npz": npz_bytes(record.given_maps)} if record.given_maps else {}),
        **({} if record.picture is None else {PICTURE: png_bytes(record.picture)}),
        "run.json": json_bytes(about),
    }


def read_record(folder: str | Path) -> dict[str, Any]:
    """Read the fields of a record, with what lies beside it, from the files of a folder.

    Raises
    ------
    ProbeError
        If the folder does not hold a complete result.
    """
    folder = Path(folder)
    try:
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        note_earlier_targets(record, record["options"]["targets"], folder)
        # Results of version 0.2 have fewer columns and neither profile nor pattern.
        table = pd.read_parquet(folder / "scores.parquet")
        if "share" not in table and "padding_share" in table:
            table[SHARE] = table[PADDING_SHARE]
        table = table.reindex(columns=COLUMNS)
        profile = pd.DataFrame(columns=PROFILE_COLUMNS)
        if (folder / "profile.parquet").exists():
            profile = pd.read_parquet(folder / "profile.parquet")
        with np.load(folder / "maps.npz", allow_pickle=False) as arrays:
            split = {key: key.rsplit("/", 3) for key in arrays.files}
            maps = {(w, v, unquote(n), t): arrays[key] for key, (w, v, n, t) in split.items()}
        pattern = load_pattern(folder)
        later: dict[str, Any] = {"readouts": _load_readouts(folder, record)}
        if (folder / "per_image.parquet").exists():
            later["per_image"] = pd.read_parquet(folder / "per_image.parquet")
        if (folder / "targets.npz").exists():
            with np.load(folder / "targets.npz", allow_pickle=False) as arrays:
                later["given_maps"] = dict(arrays)
        picture = None
        if (folder / PICTURE).exists():
            with Image.open(folder / PICTURE, formats=["PNG"]) as file:
                picture = np.asarray(file.convert("RGBA"))
        certificates = {}
        for entry in record.pop("certificates"):
            condition = (entry.pop("weights"), entry.pop("variant"))
            for key in ("shift", "image_size", "sources", "silent"):
                entry[key] = tuple(entry.get(key, ()))
            for key in ("residual", "contrast"):
                entry[key] = float(entry[key])
            if entry["contact"] is not None:
                entry["contact"] = float(entry["contact"])
            entry["layers"] = {k: float(v) for k, v in entry["layers"].items()}
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
    return {
        "table": table,
        "maps": maps,
        "certificates": certificates,
        "provenance": record,
        "profile": profile,
        "pattern": pattern,
        "picture": picture,
        **later,
        **beside,
    }


def own_folder(folder: Path, provenance: Mapping[str, Any]) -> Path:
    """Return where a run belongs: the folder, or one beside it if another run is there.

    Another one has other options or weights; the name of its folder ends in a hash of them.
    """
    kept = _provenance(folder)
    if kept is None or _identity(kept) == _identity(provenance):
        return folder
    text = json.dumps(_identity(provenance), sort_keys=True)
    return folder.with_name(f"{folder.name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}")


def _identity(provenance: Mapping[str, Any]) -> list[Any]:
    """Options and weights of a run."""
    hashes = [backbone.get("sha256") for backbone in provenance.get("backbones", [])]
    return [plain(provenance.get("options")), hashes]


def finished_run(folder: Path, asked: str, cell: str | None = None) -> Path | None:
    """Find a finished run of the options with this fingerprint, by today's versions.

    It is looked for where :func:`own_folder` puts it; with ``cell``, only one of that cell. None
    where there is none.
    """
    for place in (folder, *sorted(folder.parent.glob(f"{glob.escape(folder.name)}-????????"))):
        kept = _provenance(place) or {}
        same = kept.get("asked") == asked and kept.get("versions") == versions()
        if same and cell in (None, kept.get("cell")):
            return place
    return None


def _provenance(folder: Path) -> dict[str, Any] | None:
    try:
        return dict(json.loads((folder / "run.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def tables_beside(folder: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """Attribution, calibration, erasure beside a result, if they are of weights that it has.

    A calibration has to be of the same readout too. Planted truth is of no network; it lies in the
    folder above.
    """
    hashes = {backbone["sha256"] for backbone in record["backbones"]}
    found: dict[str, Any] = {}
    if (folder / "attribution.json").exists():
        attribution, origin = read_attribution(folder)
        if origin["backbone"]["sha256"] in hashes:
            found["attribution"] = attribution
    if (folder / "calibration.json").exists():
        calibration = load_calibration(folder)
        about, options = calibration.provenance, record["options"]
        label = readout_record(record)["label"]
        same = (about["readout"], about["concat"]) == (label, bool(options.get("concat")))
        if about["sha256"] in hashes and same:
            found["calibration"] = calibration
    if (folder / ERASURE).exists():
        erased = read_erasure(folder)
        if erased.provenance["sha256"] in hashes:
            found["erasure"] = erased
    if (folder.parent / PLANTED).exists():
        found["planted"] = pd.read_csv(folder.parent / PLANTED)
    return found


def load_pattern(folder: Path) -> dict[PatternKey, Pattern]:
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


def _load_readouts(folder: Path, record: Mapping[str, Any]) -> dict[PatternKey, Readout]:
    """Read the fitted readouts of a run, as far as their kind can be saved."""
    name = record.get("readout", {}).get("name")
    if not (folder / "readouts.npz").exists() or name not in READOUTS:
        return {}
    parts: dict[PatternKey, dict[str, NDArray[Any]]] = {}
    with np.load(folder / "readouts.npz", allow_pickle=False) as arrays:
        for key in arrays.files:
            weights, variant, layer, part = key.rsplit("/", 3)
            parts.setdefault((weights, variant, unquote(layer)), {})[part] = arrays[key]
    return {key: READOUTS.find(name).of_arrays(held) for key, held in parts.items()}


def quoted_layer(layer: str) -> str:
    """A layer's name without the slash that separates the parts of a key."""
    return quote(layer, safe="")
