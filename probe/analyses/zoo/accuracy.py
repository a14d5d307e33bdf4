"""Accuracy on ImageNet beside position, from timm's own tables of results."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import timm

from ...errors import ProbeError
from ...text import is_random


def read_accuracy(path: str | Path) -> pd.DataFrame:
    """Read a table of results as timm publishes them: ``results-imagenet.csv``.

    Returns
    -------
    DataFrame
        Columns ``model`` and ``top1``, in percent.

    Raises
    ------
    ProbeError
        If it can't be read or lacks one of these columns.
    """
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise ProbeError(f"{path} can't be read as a table of accuracies: {error}") from None
    missing = [name for name in ("model", "top1") if name not in table]
    if missing:
        raise ProbeError(
            f"{path}: expected timm's columns model and top1, got {', '.join(table.columns)}"
        )
    table = table[["model", "top1"]].assign(top1=pd.to_numeric(table["top1"], errors="coerce"))
    return table.dropna().drop_duplicates("model").reset_index(drop=True)


def join_accuracy(models: pd.DataFrame, accuracy: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Put ``top1`` beside the cells with pretrained weights.

    A name without a tag is its default tag's, on both sides. Random weights and checkpoint files
    of one's own have no published accuracy.

    Returns
    -------
    models : DataFrame
        With a column ``top1``, NaN where there is none.
    missing : list of str
        Models with pretrained weights that the table of accuracies lacks.
    """
    known = dict(zip(accuracy["model"], accuracy["top1"], strict=True))
    values, missing = [], []
    for row in models.to_dict("records"):
        value = float("nan")
        names = _names(str(row["model"]), str(row["weights"]))
        if names:
            value = next((known[name] for name in names if name in known), value)
            if value != value and row["status"] == "finished":
                missing.append(names[0])
        values.append(value)
    return models.assign(top1=values), list(dict.fromkeys(missing))


def _names(model: str, weights: str) -> list[str]:
    """Names under which published weights may stand, the most exact first."""
    base, _, tag = model.partition(".")
    if is_random(weights) or not timm.is_model(base):
        return []
    tags = timm.list_pretrained(f"{base}.*")
    default = str((timm.get_pretrained_cfg(base) or timm.models.PretrainedCfg()).tag or "")
    if weights not in ("", "pretrained") and f"{base}.{weights}" not in tags:
        return []  # a checkpoint file
    tag = tag or (weights if weights != "pretrained" else "") or default
    exact = [f"{base}.{tag}"] if tag else []
    return [*exact, *([base] if tag == default else [])]
