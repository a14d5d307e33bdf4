"""The survey: inventory and certificate of every architecture of timm, in one table."""

from __future__ import annotations

import gc
import io
import os
import re
import time
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pandas as pd
import timm
import torch
from tqdm.auto import tqdm

from .certificates import Certificate, prepare
from .errors import ProbeError
from .files import write_files
from .inventory import PADDING
from .variants import parse_variant

COLUMNS = [
    *("model", "file", "parameters", "variant", "status", "reason", "sources", "padded_calls"),
    *("residual", "contrast", "threshold", "first_break", "height", "width", "shift"),
    *("precision", "seconds", "timm"),
]
"""Columns of a survey's table."""

STATUSES: tuple[str, ...] = ("certified", "not certified", "not run")

_NUMBERS = ("parameters", "residual", "contrast", "threshold", "seconds")
_COUNTS = ("padded_calls", "height", "width")  # unknown of what could not be run
_DTYPES = {c: "float64" if c in _NUMBERS else "Int64" if c in _COUNTS else "str" for c in COLUMNS}
_BYTES_PER_PARAMETER = 4 + 8 + 4  # float32, the float64 copy, and room for a state_dict
_TABLE = "survey.csv"
_NAMED = 8  # architectures that a sentence names


def survey(
    models: str | Sequence[str] = "*",
    out: str | Path | None = None,
    *,
    variant: str = "circular",
    max_parameters: float | None = None,
    seed: int = 0,
    device: str | torch.device = "auto",
    progress: bool = True,
) -> pd.DataFrame:
    """Certify many architectures, one after another, with random weights.

    Each is built, its sources of position listed, and its certificate measured on the smallest
    image that it takes; then it is forgotten. What is finished is on disk at once, and is not done
    again by a later survey into the same folder with the same timm.

    Parameters
    ----------
    models : str or sequence of str
        Names or globs over timm's architectures.
    out : str or Path, optional
        Folder of ``survey.csv`` and the page ``survey.html``.
    variant : str
        See :data:`probe.VARIANTS`.
    max_parameters : float, optional
        In millions: larger ones are left out.
    seed : int
        Of random weights and images.
    device : str or torch.device
        ``auto``: CUDA where there is one, else the CPU.
    progress : bool
        Show a bar.

    Returns
    -------
    DataFrame
        One row per architecture: ``model``, ``file`` (of timm's implementation), ``parameters``
        (millions), ``variant``, ``status`` (one of :data:`STATUSES`), ``reason`` (why it is not
        certified, or could not be run), ``sources`` (kinds of sources of position besides
        padding), ``padded_calls``, ``residual``, ``contrast``, ``threshold``, ``first_break``,
        ``height``, ``width``, ``shift`` (pixels), ``precision``, ``seconds``, ``timm`` (version).

    Raises
    ------
    ProbeError
        If no architecture matches, the variant is unknown, or the folder can't be written or
        holds something else.
    """
    variant = parse_variant(variant).name
    names = match(models)
    rows = _finished(out, variant) if out is not None else {}
    done = {k: v for k, v in rows.items() if v["timm"] == timm.__version__}
    bar = tqdm(names, desc="survey", unit="model", disable=not progress, dynamic_ncols=True)
    try:
        for name in bar:
            bar.set_postfix_str(name)
            if name in done:
                continue
            row = _row(name, variant, max_parameters, seed, device)
            gc.collect()  # the network, before memory for the next is looked at
            if row is None:
                continue
            rows[name] = row
            if out is not None:
                write_files(Path(out), {_TABLE: _csv(_table(rows))})
    finally:
        bar.close()
        if out is not None and rows:
            from .report.html import survey_page

            write_files(Path(out), {"survey.html": survey_page(_table(rows)).encode()})
    found = _table(rows)
    asked = found["model"].isin(names)
    if max_parameters is not None:
        asked &= ~(found["parameters"] > max_parameters)
    return found[asked].reset_index(drop=True)


def load_survey(folder: str | Path) -> pd.DataFrame:
    """Read the table that :func:`survey` wrote.

    Parameters
    ----------
    folder : str or Path
        Of ``survey.csv``.

    Returns
    -------
    DataFrame
        As :func:`survey` returned it.

    Raises
    ------
    ProbeError
        If there is none, or the file is something else.
    """
    path = Path(folder) / _TABLE
    try:
        table = pd.read_csv(path, dtype="str", keep_default_na=False)
        missing = [c for c in COLUMNS if c not in table.columns]
        if missing:
            raise ValueError(f"it has no column {missing[0]!r}")
        table = table[COLUMNS]
        if table.isna().any(axis=None) or not table["status"].isin(STATUSES).all():
            raise ValueError("not every row is that of an architecture")
        for column in _NUMBERS:
            table[column] = [float(text) if text else float("nan") for text in table[column]]
        for column in _COUNTS:
            table[column] = [int(text) if text else pd.NA for text in table[column]]
        return table.astype(_DTYPES)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ProbeError(f"{path} can't be read as a survey: {reason}") from None


def findings(table: pd.DataFrame) -> list[str]:
    """Say a survey in sentences.

    Parameters
    ----------
    table : DataFrame
        What :func:`survey` returned.

    Returns
    -------
    list of str
        The first counts the statuses; the others say what padding alone explains, what else lets
        position in, and which architectures are not certified although no source is known.
    """
    if table.empty:
        return ["No architecture was surveyed."]
    ran = table[table["status"] != "not run"]
    certified = table["status"] == "certified"
    pure = ran[ran["sources"] == ""]
    passed = pure["status"] == "certified"
    files = table["file"].nunique()
    sentences = [
        f"{int(certified.sum())} of {_counted(len(table), 'architecture')}, from "
        f"{_counted(files, 'file')} of timm, are certified under {table['variant'].iloc[0]}; "
        f"{len(ran) - int(certified.sum())} are not, {len(table) - len(ran)} could not be run."
    ]
    if len(pure):
        sentence = (
            f"Of the {len(pure)} in which no source of position besides padding was found, "
            f"{int(passed.sum())} are certified ({100 * passed.mean():.1f} %)"
        )
        if passed.any():
            greatest = pure.loc[passed, "residual"].max()
            sentence += f", with residuals of at most {greatest:.1e}"
        sentences.append(f"{sentence}.")
    others = ran.loc[(ran["status"] != "certified") & (ran["sources"] != ""), "sources"]
    kinds = others.str.split("; ").explode().value_counts()
    if len(kinds):
        listed = ", ".join(f"{kind} ({count})" for kind, count in kinds.items())
        sentences.append(f"What else lets position in, where one is not certified: {listed}.")
    unknown = list(pure.loc[~passed, "model"])
    if 0 < len(unknown) < len(pure):
        listed = ", ".join(unknown[:_NAMED]) + (", …" if len(unknown) > _NAMED else "")
        sentences.append(f"Not certified, though nothing but padding was found: {listed}.")
    return sentences


def match(models: str | Sequence[str]) -> list[str]:
    """Architectures of timm that names or globs stand for, in timm's order.

    Parameters
    ----------
    models : str or sequence of str
        Names or globs.

    Returns
    -------
    list of str
        Without repeats.

    Raises
    ------
    ProbeError
        If one of them stands for none.
    """
    wanted = [models] if isinstance(models, str) else list(models)
    known = timm.list_models()
    found: set[str] = set()
    for pattern in wanted:
        names = [n for n in known if fnmatchcase(n, pattern)]
        if not names:
            raise ProbeError(f"no architecture of timm matches {pattern!r}")
        found.update(names)
    return [n for n in known if n in found]


def file_of(name: str) -> str:
    """Name of the file of timm that implements an architecture."""
    return timm.models.model_entrypoint(name).__module__.rpartition(".")[2]


def _row(
    name: str, variant: str, limit: float | None, seed: int, device: str | torch.device
) -> dict[str, Any] | None:
    started = time.perf_counter()
    row: dict[str, Any] = dict.fromkeys(COLUMNS, "")
    row |= {"model": name, "file": file_of(name), "variant": variant, "timm": timm.__version__}
    row |= dict.fromkeys(_NUMBERS, float("nan")) | dict.fromkeys(_COUNTS, pd.NA)
    try:
        parameters = _parameters(name)
        row["parameters"] = round(parameters / 1e6, 2)
        if limit is not None and parameters > limit * 1e6:
            return None
        needed, free = parameters * _BYTES_PER_PARAMETER, _free_memory()
        if free is not None and needed > free:
            raise ProbeError(
                f"its {row['parameters']:.0f} M parameters need {needed / 2**30:.0f} GiB of "
                f"memory, {free / 2**30:.0f} GiB are free"
            )
        subject = prepare(name, seed=seed, device=device)
        certificate = subject.certify(parse_variant(variant))
        row |= _certified(certificate)
        table = subject.inventory
        padded = table["kind"] == PADDING
        row["padded_calls"] = int(table.loc[padded, "calls"].sum())
        row["sources"] = "; ".join(dict.fromkeys(table.loc[~padded, "kind"]))
    except Exception as error:  # whatever it is, the other architectures still have their turn
        text = " ".join(str(error).split())[:300]
        row["status"] = "not run"
        row["reason"] = text if isinstance(error, ProbeError) else f"{type(error).__name__}: {text}"
    row["seconds"] = round(time.perf_counter() - started, 1)
    return row


def _certified(certificate: Certificate) -> dict[str, Any]:
    height, width = certificate.image_size
    return {
        "status": "certified" if certificate.passed else "not certified",
        "reason": "" if certificate.passed else certificate.reason,
        "residual": certificate.residual,
        "contrast": certificate.contrast,
        "threshold": certificate.threshold,
        "first_break": certificate.first_break or "",
        "height": height,
        "width": width,
        "shift": "x".join(map(str, certificate.shift)),
        "precision": certificate.precision,
    }


def _parameters(name: str) -> int:
    """Number of parameters, found without allocating them where timm can."""
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):
                model = timm.create_model(name, pretrained=False)
        except Exception:  # initialisation that reads its own numbers can't run without memory
            model = timm.create_model(name, pretrained=False)
    return sum(p.numel() for p in model.parameters())


def _free_memory() -> int | None:
    """Bytes of memory that can be had, which on Linux includes what caches files."""
    try:
        found = re.search(r"^MemAvailable: *(\d+) kB", Path("/proc/meminfo").read_text(), re.M)
        if found:
            return int(found[1]) * 1024
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


def _finished(out: str | Path, variant: str) -> dict[str, dict[str, Any]]:
    path = Path(out) / _TABLE
    if not path.exists():
        return {}
    table = load_survey(out)
    if table["variant"].ne(variant).any():
        raise ProbeError(
            f"{path} is a survey of {table['variant'].iloc[0]}: choose another folder for {variant}"
        )
    return {row["model"]: row for row in table.to_dict("records")}


def _table(rows: dict[str, dict[str, Any]]) -> pd.DataFrame:
    table = pd.DataFrame(rows.values(), columns=COLUMNS).astype(_DTYPES)
    return table.sort_values("model", ignore_index=True)


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _csv(table: pd.DataFrame) -> bytes:
    text = io.StringIO()
    table.to_csv(text, index=False)
    return text.getvalue().encode()
