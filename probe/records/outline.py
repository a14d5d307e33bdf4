"""A record in a few numbers and sentences, for scripts."""

from __future__ import annotations

from typing import Any

from ..files import plain
from ..scores.tables import as_dicts
from .record import Record
from .verdict import verdict_of

_SHOWN = ["weights", "variant", "target", "layer", "value", "low", "high"]


def outline(record: Record) -> dict[str, Any]:
    """Return what a record says, as plain data that JSON knows.

    Returns
    -------
    dict
        ``model``; ``options``; ``best``, the layer with the highest SPC for each weights, variant
        and target, with its interval; ``certificates``; the sentences of the ``verdict``;
        ``weights`` with origin and SHA-256; ``versions``. Later versions only add to it.
    """
    table = record.table
    spc = table[(table["metric"] == "spc") & (table["depth"] > 0) & table["value"].notna()]
    keys = ["weights", "variant", "target"]
    best = spc.loc[spc.groupby(keys, sort=False)["value"].idxmax()] if len(spc) else spc
    certificates = [
        {
            "weights": weights,
            "variant": variant,
            "passed": bool(certificate.passed),
            "residual": float(certificate.residual),
            "reason": certificate.reason,
        }
        for (weights, variant), certificate in record.certificates.items()
    ]
    summary: dict[str, Any] = plain(
        {
            "schema": 1,
            "model": record.model,
            "options": record.provenance["options"],
            "best": as_dicts(best[_SHOWN]),
            "certificates": certificates,
            "verdict": verdict_of(record),
            "weights": [
                {k: w[k] for k in ("weights", "source", "sha256")}
                for w in record.provenance["backbones"]
            ],
            "versions": record.provenance.get("versions", {}),
        }
    )
    return summary
