"""Effects of units as a table, and in sentences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ...scores.intervals import bootstrap_interval
from ...scores.metrics import METRICS
from ...targets import KNOWLEDGE
from ...text import interval, short_name
from .replay import ReplayedCondition

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
    conditions: Sequence[ReplayedCondition],
    targets: Sequence[str],
    numbers: NDArray[np.int64],
    seed: int,
) -> pd.DataFrame:
    """One row for each condition, target and metric."""
    original, bare = conditions[:2]
    # Images, conditions, targets, metrics.
    values = np.stack([np.concatenate(c.values) for c in conditions], 1)
    more = np.array([c.keeps in ("only", "all") for c in conditions])[:, None, None]
    all_of_it, none = (values[:, [conditions.index(c)]] for c in (original, bare))
    effects = np.where(more, values - none, all_of_it - values)
    columns = {}
    for name, numbers_by_image, bounds in (
        ("value", values, ("low", "high")),
        ("effect", effects, ("effect_low", "effect_high")),
    ):
        columns[name] = numbers_by_image.mean(0).ravel()
        found = bootstrap_interval(numbers_by_image, seed, scenes=numbers)
        columns |= dict(zip(bounds, map(np.ravel, found), strict=True))
    rows = [
        (c.kind, c.unit, c.function, c.order, c.keeps, t, m)
        for c in conditions
        for t in targets
        for m in METRICS
    ]
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
    network = rows[rows["kind"] == "network"].set_index("unit")
    whole, bare = network.loc["original"], network.loc["circular"]
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
        mine = sides[sides["keeps"] == keeps]
        listed = ", ".join(f"{r['unit']} {_score(r)}" for _, r in mine.iterrows())
        sentences.append(f"{words}: {listed}.")
    return sentences


def _score(row: pd.Series) -> str:
    return interval(float(row["value"]), float(row["low"]), float(row["high"]))


def _listed(rows: pd.DataFrame) -> str:
    named = [f"{row['unit']} (SPC {_score(row)})" for _, row in rows[:_NAMED].iterrows()]
    more = f" and {len(rows) - _NAMED} more" if len(rows) > _NAMED else ""
    return ", ".join(named) + more


def _counted(number: int, noun: str) -> str:
    return f"{number} padded {noun}{'' if number == 1 else 's'}"
