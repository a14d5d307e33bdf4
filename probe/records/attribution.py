"""What an attribution found, in sentences."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from ..files import reading
from ..targets import knowledge, note_earlier_targets
from ..text import interval, short_name

TABLE_FILE, RECORD_FILE = "attribution.csv", "attribution.json"

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


def read_attribution(folder: str | Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Read the table and the provenance of an attribution that lies in a folder.

    Raises
    ------
    ProbeError
        If the folder does not hold both, or they are something else.
    """
    folder = Path(folder)
    with reading(folder, "attribution"):
        record = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
        table = pd.read_csv(folder / TABLE_FILE, dtype="str", keep_default_na=False)
        if list(table.columns) != COLUMNS or table.empty or not isinstance(record, dict):
            raise ValueError("its columns are not those of an attribution")
        note_earlier_targets(record, table["target"], folder)
        for column in NUMBER_COLUMNS:
            table[column] = [float(text) if text else float("nan") for text in table[column]]
        return table.astype({"order": "int64"}), record


def attribution_summary(table: pd.DataFrame) -> list[str]:
    """Say in sentences which units are enough, which are needed, and which sides.

    A unit is enough if it alone brings :data:`ENOUGH` of padding's effect on the SPC, and needed if
    without it at least :data:`NEEDED` of that are gone and the interval of what is gone excludes 0.
    """
    targets = dict.fromkeys(table["target"])
    return [sentence for target in targets for sentence in target_sentences(table, target)]


def target_sentences(table: pd.DataFrame, target: str) -> list[str]:
    rows = table[(table["metric"] == "spc") & (table["target"] == target)]
    network = rows[rows["kind"] == "network"]
    whole, bare = (network[network["keeps"] == keeps].iloc[0] for keeps in ("all", "none"))
    units = rows[~rows["kind"].isin(("network", "side"))]
    of_sources = units["kind"].iloc[0] == "source"
    what = "the sources that can be taken away" if of_sources else "padding"
    layer, known = whole["layer"], knowledge(target)
    sentences = [
        f"Layer {layer} of {whole['model']} ({short_name(whole['weights'])} weights): SPC for "
        f"{known} is {_score(whole)} as trained, {_score(bare)} without {what}."
    ]
    effect = float(whole["effect"])
    if not effect > 0 or whole["effect_low"] <= 0:
        make = "make" if of_sources else "makes"
        subject = f"{what[0].upper()}{what[1:]} {make}"
        return [*sentences, f"{subject} no clear difference to {known} there."]
    alone = units[units["keeps"] == "only"].sort_values("effect", ascending=False)
    without = units[units["keeps"] == "all but"].sort_values("effect", ascending=False)
    noun = "source" if of_sources else f"padded {alone['kind'].iloc[0]}"
    count = len(alone)
    if of_sources and count == 1:
        return [*sentences, f"The whole difference comes from {alone['unit'].iloc[0]}."]
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
    if sides.empty:
        return sentences
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
    return f"{number} {noun}{'' if number == 1 else 's'}"
