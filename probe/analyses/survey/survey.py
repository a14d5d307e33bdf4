"""The survey: inventory and certificate of every architecture of timm, in one table."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import timm
import torch
from tqdm.auto import tqdm

from ...certificates.certificate import Certificate
from ...certificates.prepare import prepare
from ...certificates.target import CertificationTarget
from ...errors import ProbeError
from ...files import write_files
from ...machine import free_memory
from ...variants.kinds import PADDING
from ...variants.variant import parse_variant
from .isolation import forked
from .page import survey_page
from .table import (
    COLUMNS,
    COUNT_COLUMNS,
    NUMBER_COLUMNS,
    TABLE_FILE,
    csv_text,
    read_finished,
    survey_table,
)

VARIANTS: tuple[str, ...] = ("circular", "no_position")
"""What an architecture is certified under: padding alone taken away, and every source."""

_BYTES_PER_PARAMETER = 4 + 8 + 4  # float32, the float64 copy, and room for a state_dict


def survey(
    models: str | Sequence[str] = "*",
    out: str | Path | None = None,
    *,
    variants: str | Sequence[str] = VARIANTS,
    max_parameters: float | None = None,
    seed: int = 0,
    device: str | torch.device = "auto",
    processes: bool = False,
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
    variants : str or sequence of str
        See :data:`probe.VARIANTS`; each architecture is built once for all of them.
    max_parameters : float, optional
        In millions: larger ones are left out.
    seed : int
        Of random weights and images.
    device : str or torch.device
        ``auto``: CUDA where there is one, else the CPU.
    processes : bool
        Each architecture in a forked process of its own, on one thread, which may take the memory
        that is free: what crashes it, or is too large, ends that one alone.
    progress : bool
        Show a bar.

    Returns
    -------
    DataFrame
        One row per architecture and variant: ``model``, ``file`` (of timm's implementation),
        ``parameters`` (millions), ``variant``, ``status`` (one of :data:`STATUSES`), ``reason``
        (why it is not certified, or could not be run), ``sources`` (kinds of sources of position
        besides padding), ``padded_calls``, ``residual``, ``contrast``, ``threshold``,
        ``first_break``, ``height``, ``width``, ``shift`` (pixels), ``precision``, ``seconds``,
        ``timm`` (version).

    Raises
    ------
    ProbeError
        If no architecture matches, the variant is unknown, or the folder can't be written or
        holds something else.
    """
    wanted = [variants] if isinstance(variants, str) else list(variants)
    wanted = list(dict.fromkeys(parse_variant(variant).name for variant in wanted))
    if processes and str(device) != "cpu" and torch.cuda.is_initialized():
        raise ProbeError(
            "processes: CUDA is in use here already, and forked processes could not use it; start "
            "the survey in a new Python, without processes, or on device 'cpu'"
        )
    names = match(models)
    rows = read_finished(out) if out is not None else {}
    done = {key for key, row in rows.items() if row["timm"] == timm.__version__}
    bar = tqdm(names, desc="survey", unit="model", disable=not progress, dynamic_ncols=True)
    try:
        for name in bar:
            bar.set_postfix_str(name)
            left = [variant for variant in wanted if (name, variant) not in done]
            if not left:
                continue
            work = partial(_rows, name, left, max_parameters, seed, device)
            fresh = forked(work) if processes else work()
            gc.collect()  # the network, before memory for the next is looked at
            if isinstance(fresh, str):
                fresh = [_blank(name, v) | {"status": "not run", "reason": fresh} for v in left]
            rows |= {(name, row["variant"]): row for row in fresh}
            if out is not None and fresh:
                write_files(Path(out), {TABLE_FILE: csv_text(survey_table(rows))})
    finally:
        bar.close()
        if out is not None and rows:
            write_files(Path(out), {"survey.html": survey_page(survey_table(rows)).encode()})
    table = survey_table(rows)
    asked = table["model"].isin(names) & table["variant"].isin(wanted)
    if max_parameters is not None:
        asked &= ~(table["parameters"] > max_parameters)
    return table[asked].reset_index(drop=True)


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


def _blank(name: str, variant: str) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(COLUMNS, "")
    row |= {"model": name, "file": file_of(name), "variant": variant, "timm": timm.__version__}
    return row | dict.fromkeys(NUMBER_COLUMNS, float("nan")) | dict.fromkeys(COUNT_COLUMNS, pd.NA)


def _rows(
    name: str,
    variants: Sequence[str],
    limit: float | None,
    seed: int,
    device: str | torch.device,
) -> list[dict[str, Any]]:
    """Certify one architecture; no rows of one that is larger than the limit."""
    rows = [_blank(name, variant) for variant in variants]
    subject: CertificationTarget | None = None
    for row in rows:
        started = time.perf_counter()
        try:
            if subject is None:
                count = parameters(name)
                for each in rows:
                    each["parameters"] = round(count / 1e6, 2)
                if limit is not None and count > limit * 1e6:
                    return []
                check_memory(count)
                subject = prepare(name, seed=seed, device=device)
                table = subject.inventory
                padded = table["kind"] == PADDING
                for each in rows:
                    each["padded_calls"] = int(table.loc[padded, "calls"].sum())
                    each["sources"] = "; ".join(dict.fromkeys(table.loc[~padded, "kind"]))
            row |= _certified(subject.certify(parse_variant(row["variant"])))
        except Exception as error:  # whatever it is, the other architectures still have their turn
            text = " ".join(str(error).split())[:300]
            named = isinstance(error, ProbeError)
            row |= {
                "status": "not run",
                "reason": text if named else f"{type(error).__name__}: {text}",
            }
        row["seconds"] = round(time.perf_counter() - started, 1)
    return rows


def check_memory(count: int) -> None:
    """Refuse a network of so many parameters if there is no room for it."""
    needed, free = count * _BYTES_PER_PARAMETER, free_memory()
    if free is not None and needed > free:
        raise ProbeError(
            f"its {count / 1e6:.0f} M parameters need {needed / 2**30:.0f} GiB of memory, "
            f"{free / 2**30:.0f} GiB are free"
        )


def _certified(certificate: Certificate) -> dict[str, Any]:
    height, width = certificate.image_size
    return {
        "status": "certified" if certificate.passed else "not certified",
        "reason": "" if certificate.passed else certificate.reason,
        "residual": float(f"{certificate.residual:.3g}"),
        "contrast": float(f"{certificate.contrast:.3g}"),
        "threshold": certificate.threshold,
        "first_break": certificate.first_break or "",
        "height": height,
        "width": width,
        "shift": "x".join(map(str, certificate.shift)),
        "precision": certificate.precision,
    }


def parameters(name: str) -> int:
    """Number of parameters, found without allocating them where timm can."""
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):
                model = timm.create_model(name, pretrained=False)
        except Exception:  # initialisation that reads its own numbers can't run without memory
            model = timm.create_model(name, pretrained=False)
    return sum(p.numel() for p in model.parameters())
