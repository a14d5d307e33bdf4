"""How weights and variants look in every figure: colours, dashes, names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.lines import Line2D

from ...records.record import Condition
from ...text import families, short_name
from ..style import INPUT, PALETTE, SOFT, plain_text

_ORDER = ("original", "circular", "reflect", "canvas", "replicate", "zeros")

_DASHES = ("-", (0, (4, 2)), (0, (1, 1.5)), (0, (4, 1.5, 1, 1.5)))

_MARKERS = ("o", "s", "D", "^")

CHANCE: dict[str, Any] = {"color": SOFT, "linewidth": 1.0, "linestyle": (0, (2, 2))}


def conditions_of(table: pd.DataFrame) -> list[Condition]:
    """Every (weights, variant) of a table, in order."""
    keys = table[["weights", "variant"]].drop_duplicates()
    return [(str(w), str(v)) for w, v in keys.itertuples(index=False, name=None)]


def layers_of(table: pd.DataFrame) -> list[str]:
    """Names of the layers of a table in order of execution."""
    return list(dict.fromkeys(table.sort_values("depth", kind="stable")["layer"]))


def leading(conditions: Sequence[Condition]) -> list[Condition]:
    """Conditions that pictures show: of several random draws the first alone."""
    first = {members[0] for members in families(w for w, _ in conditions).values()}
    return [condition for condition in conditions if condition[0] in first]


def handles(conditions: Sequence[Condition], *, chance: bool = False) -> list[Line2D]:
    """Legend entries, one for each family of weights × variant, and one for chance."""
    entries = []
    for condition in leading(conditions):
        colour, dashes, marker = look(conditions, condition)
        entries.append(
            Line2D(
                [], [],
                color=colour,
                linestyle=dashes,
                marker=marker,
                markersize=4.5,
                markeredgewidth=0,
                label=plain_text(family_label(conditions, condition)),
            )
        )  # fmt: skip
    if chance:
        entries.append(Line2D([], [], label="chance", **CHANCE))
    return entries


def look(conditions: Sequence[Condition], condition: Condition) -> tuple[str, Any, str]:
    """Colour (by variant), dashes and marker (by family of weights) of a condition."""
    groups = list(families(w for w, _ in conditions).values())
    kind = next(k for k, members in enumerate(groups) if condition[0] in members) % len(_DASHES)
    order = list(dict.fromkeys((*_ORDER, *(variant for _, variant in conditions))))
    colour = PALETTE[order.index(condition[1]) % len(PALETTE)]
    return colour, _DASHES[kind], _MARKERS[kind]


def condition_label(condition: Condition) -> str:
    """``pretrained, circular``."""
    return f"{short_name(condition[0])}, {condition[1]}"


def family_label(conditions: Sequence[Condition], condition: Condition) -> str:
    """``random (3 seeds), circular``."""
    seeds = len(family_members(conditions, condition[0]))
    return f"random ({seeds} seeds), {condition[1]}" if seeds > 1 else condition_label(condition)


def best_score(table: pd.DataFrame) -> tuple[str, str]:
    """Layer and target of the highest SPC under the first weights and variant."""
    rows = rows_of(table, conditions_of(table)[0])
    rows = rows[(rows["metric"] == "spc") & (rows["layer"] != INPUT)]
    best = rows.iloc[int(rows["value"].argmax())]
    return str(best["layer"]), str(best["target"])


def family_members(conditions: Sequence[Condition], weights: str) -> list[str]:
    """All weights of the same family."""
    groups = families(w for w, _ in conditions).values()
    return next(members for members in groups if weights in members)


def rows_of(table: pd.DataFrame, condition: Condition) -> pd.DataFrame:
    """Rows of one weights and variant."""
    return table[(table["weights"] == condition[0]) & (table["variant"] == condition[1])]
