"""Effects of units as a table, and in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ...scores.intervals import bootstrap_interval
from ...scores.metrics import METRICS
from ...scores.tables import Scored
from ...targets import KNOWLEDGE
from ...text import interval, short_name
from .units import Kept

COLUMNS = [
    *("model", "weights", "stimuli", "readout", "layer", "target"),
    *("kind", "unit", "function", "order", "keeps"),
    *("metric", "value", "low", "high", "effect", "effect_low", "effect_high"),
]
"""Columns of an attribution's table."""

ENOUGH = 0.8
"""Share of padding's whole effect from which a unit alone counts as enough."""

NEEDED = 0.2
"""Share of padding's whole effect that must be gone for a unit to count as needed."""

NUMBER_COLUMNS = ("value", "low", "high", "effect", "effect_low", "effect_high")

_NAMED = 4  # units that a sentence names


def effect_table(
    kept: Sequence[Kept],
    scored: Sequence[Scored],
    targets: Sequence[str],
    scenes: NDArray[np.int64],
    seed: int,
) -> pd.DataFrame:
    """One row for each pass, target and metric.

    Parameters
    ----------
    kept : sequence of Kept
        What keeps its padding in each pass; among them all of the network, and nothing.
    scored : sequence of Scored
        Scores of each pass by test image.
    targets : sequence of str
        Which of the targets.
    scenes : ndarray of int, shape (N,)
        See :func:`probe.stimuli.scenes`.
    seed : int
        Of the bootstrap.
    """
    keys = list(product(targets, METRICS))
    # Images, passes, targets and metrics.
    values = np.stack([s.values[:, [s.columns.index(key) for key in keys]] for s in scored], 1)
    keeps = np.array([k.keeps for k in kept])
    whole, bare = (values[:, np.flatnonzero(keeps == word)] for word in ("all", "none"))
    more = np.isin(keeps, ("only", "all"))[:, None]
    effects = np.where(more, values - bare, whole - values)
    columns = {}
    for name, by_image, bounds in (
        ("value", values, ("low", "high")),
        ("effect", effects, ("effect_low", "effect_high")),
    ):
        columns[name] = by_image.mean(0).ravel()
        interval_bounds = bootstrap_interval(by_image, seed, scenes=scenes)
        columns |= dict(zip(bounds, map(np.ravel, interval_bounds), strict=True))
    rows = [(k.kind, k.unit, k.function, k.order, k.keeps, *key) for k in kept for key in keys]
    names = ["kind", "unit", "function", "order", "keeps", "target", "metric"]
    table = pd.DataFrame(rows, columns=names).assign(**columns)
    kinds = list(dict.fromkeys(table["kind"]))
    return table.sort_values(
        ["kind", "order"],
        key=lambda column: column.map(kinds.index) if column.name == "kind" else column,
        kind="stable",
        ignore_index=True,
    )


def target_sentences(table: pd.DataFrame, target: str) -> list[str]:
    rows = table[(table["metric"] == "spc") & (table["target"] == target)]
    network = rows[rows["kind"] == "network"]
    whole, bare = (network[network["unit"] == u].iloc[0] for u in ("original", "circular"))
    layer, knowledge = whole["layer"], KNOWLEDGE[target]
    sentences = [
        f"Layer {layer} of {whole['model']} ({short_name(whole['weights'])} weights): SPC for "
        f"{knowledge} is {_score(whole)} as trained, {_score(bare)} without padding."
    ]
    effect = float(whole["effect"])
    if not effect > 0 or whole["effect_low"] <= 0:
        return [*sentences, f"Padding makes no clear difference to {knowledge} there."]
    units = rows[~rows["kind"].isin(("network", "side"))]
    alone = units[units["keeps"] == "only"].sort_values("effect", ascending=False)
    without = units[units["keeps"] == "all but"].sort_values("effect", ascending=False)
    noun, count = alone["kind"].iloc[0], len(alone)
    enough = alone[alone["effect"] >= ENOUGH * effect]
    if len(enough):
        one = len(enough) == 1
        sentences.append(
            f"{len(enough)} of {_counted(count, noun)} {'is' if one else 'are'} enough alone "
            f"(at least {ENOUGH:.0%} of the effect): {_listed(enough)}."
        )
    else:
        sentences.append(
            f"None of {_counted(count, noun)} is enough alone (at least {ENOUGH:.0%} of the "
            f"effect); the most comes from {_listed(alone[:1])}."
        )
    needed = without[(without["effect"] >= NEEDED * effect) & (without["effect_low"] > 0)]
    if len(needed):
        sentences.append(
            f"{len(needed)} of {_counted(count, noun)} {'is' if len(needed) == 1 else 'are'} "
            f"needed (at least {NEEDED:.0%} are gone without): without {_listed(needed)}."
        )
    else:
        shown = "" if without["effect"].max() < NEEDED * effect else "shown to be "
        sentences.append(
            f"None of {_counted(count, noun)} is {shown}needed: without any one of them, SPC is "
            f"{_score(without.iloc[0])} or more."
        )
    sides = rows[rows["kind"] == "side"]
    for keeps, words in (("only", "The padding of one side alone"), ("all but", "Without it")):
        side = sides[sides["keeps"] == keeps]
        listed = ", ".join(f"{r['unit']} {_score(r)}" for _, r in side.iterrows())
        sentences.append(f"{words}: {listed}.")
    return sentences


def _score(row: pd.Series) -> str:
    return interval(float(row["value"]), float(row["low"]), float(row["high"]))


def _listed(rows: pd.DataFrame) -> str:
    words = [f"{row['unit']} (SPC {_score(row)})" for _, row in rows[:_NAMED].iterrows()]
    more = f" and {len(rows) - _NAMED} more" if len(rows) > _NAMED else ""
    return ", ".join(words) + more


def _counted(number: int, noun: str) -> str:
    return f"{number} padded {noun}{'' if number == 1 else 's'}"
