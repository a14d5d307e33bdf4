"""A record as a terminal shows it."""

from __future__ import annotations

import pandas as pd

from ..text import short_name
from .record import Record
from .verdict import verdict_of


def summary(record: Record) -> str:
    """Say a record in a terminal: SPC of each layer, then the verdict."""
    rows = record.table[record.table["metric"] == "spc"]
    weights, variants = (list(dict.fromkeys(part)) for part in zip(*record.conditions, strict=True))
    blocks = []
    for w in weights:
        wide = rows[rows["weights"] == w].pivot_table(
            index="layer", columns=["variant", "target"], values="value"
        )
        table = pd.DataFrame(
            {
                target.replace("_", " "): [
                    " → ".join(_score(wide.loc[layer, (v, target)]) for v in variants)
                    for layer in record.layers
                ]
                for target in record.targets
            },
            index=record.layers,
        )
        title = f"SPC, {short_name(w)} weights, {' → '.join(variants)}"
        blocks.append(f"\n{title}\n{table.to_string()}")
    return "\n".join([*blocks, "", *(f"* {sentence}" for sentence in verdict_of(record))])


def _score(value: float) -> str:
    return f"{value:.2f}".replace("-0.00", "0.00").replace("-", "−")
