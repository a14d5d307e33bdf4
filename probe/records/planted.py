"""Planted truth in words: how much of what was planted was found."""

from __future__ import annotations

import pandas as pd


def planted_summary(table: pd.DataFrame) -> str:
    """Say in a sentence how many of the truths of :func:`planted_truth` were recovered."""
    return (
        f"R² is recovered within its interval in {table['recovered'].mean():.0%} of {len(table)} "
        f"cases, {table['channels'].min()} to {table['channels'].max():,} channels, "
        f"signal-to-noise ratios {table['snr'].min():g} to {table['snr'].max():g}; 95 % should be."
    ).replace("% of", " % of")


def planted_by_snr(table: pd.DataFrame) -> pd.DataFrame:
    """Average the table of :func:`planted_truth` over channels and repeats.

    Returns
    -------
    DataFrame
        A row for each ``snr``: ``attainable``, the mean ``value``, the mean ``half_width`` of the
        intervals, how many truths were ``recovered``, and of how many ``cases``.
    """
    return (
        table.assign(half_width=(table["high"] - table["low"]) / 2, cases=1)
        .groupby("snr", as_index=False)
        .agg(
            attainable=("attainable", "first"),
            value=("value", "mean"),
            half_width=("half_width", "mean"),
            recovered=("recovered", "sum"),
            cases=("cases", "sum"),
        )
    )
