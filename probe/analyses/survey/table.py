"""The table of a survey: read, written, and put into sentences."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pandas as pd

from ...errors import ProbeError
from ...scores.tables import as_dicts
from ...variants.kinds import PADDING, WINDOWS
from ...variants.variant import VARIANTS, parse_variant

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
        For each variant, the first counts the statuses; the others say of how many of those
        whose sources the variant takes away nothing is left, what else lets position in, and
        which architectures are not certified although no other source is known.
    """
    if table.empty:
        return ["No architecture was surveyed."]
    total = table["model"].nunique()
    sentences = []
    for name, part in table.groupby("variant"):
        sentences += _of_variant(str(name), part)
        if missing := total - part["model"].nunique():
            sentences.append(
                f"Under {name} {missing} of the {total} architectures have not been tried; those "
                "that were are the first to be finished, not a sample of all."
            )
    return sentences


def _of_variant(variant: str, table: pd.DataFrame) -> list[str]:
    ran = table[table["status"] != "not run"]
    certified = table["status"] == "certified"
    known = all(part in VARIANTS for part in variant.split("+"))
    taken = set(parse_variant(variant).removed_kinds if known else ()) - {PADDING}
    # Windows leave the place within one, which a certificate's shift bounds.
    taken |= {WINDOWS} if taken else set()
    left = ran["sources"].map(lambda kinds: len(set(filter(None, kinds.split("; "))) - taken))
    pure = ran[left == 0]
    passed = pure["status"] == "certified"
    files = table["file"].nunique()
    count, verb = int(certified.sum()), "is" if int(certified.sum()) == 1 else "are"
    sentences = [
        f"{count} of {_counted(len(table), 'architecture')}, from "
        f"{_counted(files, 'file')} of timm, {verb} certified under {variant}; "
        f"{len(ran) - count} are not, {len(table) - len(ran)} could not be run."
    ]
    beside = "that the variant leaves" if taken else "besides padding"
    if len(pure):
        sentence = (
            f"Of the {len(pure)} in which no source of position {beside} was found, "
            f"{int(passed.sum())} are certified ({100 * passed.mean():.1f} %)"
        )
        if passed.any():
            greatest = pure.loc[passed, "residual"].max()
            sentence += f", with residuals of at most {greatest:.1e}"
        sentences.append(f"{sentence}.")
    others = ran.loc[(ran["status"] != "certified") & ~ran.index.isin(pure.index), "sources"]
    kinds = others.str.split("; ").explode().value_counts()
    kinds = kinds[~kinds.index.isin(taken)]
    if len(kinds):
        listed = ", ".join(f"{kind} ({number})" for kind, number in kinds.items())
        sentences.append(f"What else lets position in, where one is not certified: {listed}.")
    unknown = list(pure.loc[~passed, "model"])
    if 0 < len(unknown) < len(pure):
        listed = ", ".join(unknown[:_NAMED]) + (", …" if len(unknown) > _NAMED else "")
        sentences.append(f"Not certified, though no source {beside} was found: {listed}.")
    return sentences


def read_finished(out: str | Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Rows of a survey in a folder, by architecture and variant; none if there is none."""
    if not (Path(out) / TABLE_FILE).exists():
        return {}
    return {(row["model"], row["variant"]): row for row in as_dicts(load_survey(out))}


def survey_table(rows: dict[tuple[str, str], dict[str, Any]]) -> pd.DataFrame:
    table = pd.DataFrame(rows.values(), columns=COLUMNS).astype(_DTYPES)
    return table.sort_values(["model", "variant"], ignore_index=True)


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def csv_text(table: pd.DataFrame) -> bytes:
    text = io.StringIO()
    table.to_csv(text, index=False)
    return text.getvalue().encode()
