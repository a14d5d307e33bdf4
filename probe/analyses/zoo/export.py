"""A zoo's tables as text and files, for scripts and papers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from ...errors import one_of
from ...files import parquet_bytes
from ...registry import Registry
from .schema import in_schema

_READ = ("model", "weights", "variant", "layer", "target", "metric", "value", "low", "high")
"""Columns of scores that tables for people to read show."""


def selected(
    scores: pd.DataFrame, metrics: Sequence[str] = (), targets: Sequence[str] = ()
) -> pd.DataFrame:
    """Return the scores of some metrics and targets; all of them by default.

    Raises
    ------
    ProbeError
        If there is no score of such a metric or target.
    """
    for column, names in (("metric", metrics), ("target", targets)):
        known = list(dict.fromkeys(scores[column]))
        for name in names:
            one_of(name, known, column)
        if names:
            scores = scores[scores[column].isin(names)]
    return scores.reset_index(drop=True)


def _csv(table: pd.DataFrame) -> bytes:
    return table.to_csv(index=False).encode()


def _markdown(table: pd.DataFrame) -> bytes:
    """GitHub's tables; a column that is the same throughout still stands."""
    numeric = [pd.api.types.is_numeric_dtype(table[name]) for name in table.columns]
    lines = [
        [str(name) for name in table.columns],
        ["---:" if right else "---" for right in numeric],
        *([_word(value) for value in row] for row in table.itertuples(index=False, name=None)),
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines).encode()


def _word(value: Any) -> str:
    if pd.isna(value):
        return "–"
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")


def _latex(table: pd.DataFrame) -> bytes:
    """A ``tabular`` for the package booktabs; names are escaped."""
    text = table.rename(columns=_escaped).map(
        lambda v: v if isinstance(v, float | int) or pd.isna(v) else _escaped(str(v))
    )
    return str(text.to_latex(index=False, na_rep="--", float_format="%.3f")).encode()


def _escaped(text: str) -> str:
    signs = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(signs.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in text)


FORMATS: Registry[Callable[[pd.DataFrame], bytes]] = Registry(
    "format",
    {
        "csv": (_csv, "comma-separated"),
        "parquet": (parquet_bytes, "with types, for pandas and others"),
        "markdown": (_markdown, "as GitHub shows tables"),
        "latex": (_latex, "a tabular for booktabs"),
    },
)
"""How a table can be written."""


def export(table: pd.DataFrame, name: str, form: str) -> bytes:
    """Write a table of ``scores`` or ``models`` in one of :data:`FORMATS`.

    Tables for people to read (``markdown``, ``latex``) have the columns that one reads.
    """
    write = FORMATS.find(form)
    table = in_schema(table, name)
    if form in ("markdown", "latex"):
        shown = list(_READ) if name == "scores" else _told(table)
        table = table[[column for column in shown if column in table.columns]]
    return write(table)


def _told(models: pd.DataFrame) -> list[str]:
    """Columns of models that one reads."""
    best = [n for n in models.columns if n.startswith("spc_") and not n.endswith(("_low", "_high"))]
    return ["model", "weights", "status", *best, "localisation_error", "depth_known", "parameters"]
