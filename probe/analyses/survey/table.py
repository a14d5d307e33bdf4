"""The table of a survey: read, written, and put into sentences."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pandas as pd

from ...errors import ProbeError
from ...scores.tables import as_dicts

COLUMNS = [
    *("model", "file", "parameters", "variant", "status", "reason", "sources", "padded_calls"),
    *("residual", "contrast", "threshold", "first_break", "height", "width", "shift"),
    *("precision", "seconds", "timm"),
]
"""Columns of a survey's table."""

STATUSES: tuple[str, ...] = ("certified", "not certified", "not run")

NUMBER_COLUMNS = ("parameters", "residual", "contrast", "threshold", "seconds")

COUNT_COLUMNS = ("padded_calls", "height", "width")  # unknown of what could not be run

_DTYPES = {
    c: "float64" if c in NUMBER_COLUMNS else "Int64" if c in COUNT_COLUMNS else "str"
    for c in COLUMNS
}

TABLE_FILE = "survey.csv"

_NAMED = 8  # architectures that a sentence names


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
    path = Path(folder) / TABLE_FILE
    try:
        table = pd.read_csv(path, dtype="str", keep_default_na=False)
        missing = [c for c in COLUMNS if c not in table.columns]
        if missing:
            raise ValueError(f"it has no column {missing[0]!r}")
        table = table[COLUMNS]
        if table.isna().any(axis=None) or not table["status"].isin(STATUSES).all():
            raise ValueError("not every row is that of an architecture")
        for column in NUMBER_COLUMNS:
            table[column] = [float(text) if text else float("nan") for text in table[column]]
        for column in COUNT_COLUMNS:
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


def read_finished(out: str | Path, variant: str) -> dict[str, dict[str, Any]]:
    path = Path(out) / TABLE_FILE
    if not path.exists():
        return {}
    table = load_survey(out)
    if table["variant"].ne(variant).any():
        raise ProbeError(
            f"{path} is a survey of {table['variant'].iloc[0]}: choose another folder for {variant}"
        )
    return {row["model"]: row for row in as_dicts(table)}


def survey_table(rows: dict[str, dict[str, Any]]) -> pd.DataFrame:
    table = pd.DataFrame(rows.values(), columns=COLUMNS).astype(_DTYPES)
    return table.sort_values("model", ignore_index=True)


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def csv_text(table: pd.DataFrame) -> bytes:
    text = io.StringIO()
    table.to_csv(text, index=False)
    return text.getvalue().encode()
