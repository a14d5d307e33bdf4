"""The plain data of a run: table, maps, certificates, profile, patterns, provenance."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

COLUMNS = [
    *("model", "weights", "variant", "stimuli", "readout"),
    *("layer", "depth", "channels", "height", "width", "target"),
    *("metric", "value", "low", "high", "chance"),
    *("difference", "difference_low", "difference_high"),
    *("padding_share", "padding_share_low", "padding_share_high"),
]
"""Columns of a result's table."""

PROFILE_COLUMNS = [
    *("model", "weights", "variant", "stimuli", "readout", "layer", "depth", "target"),
    *("distance", "places", "error", "low", "high", "chance"),
]
"""Columns of a result's profile."""

Condition = tuple[str, str]
"""Weights and variant."""

MapKey = tuple[str, str, str, str]
"""Weights, variant, layer and target."""

PatternKey = tuple[str, str, str]
"""Weights, variant and layer."""


def command(provenance: Mapping[str, Any]) -> str:
    options = dict(provenance["options"])
    own = {k: v for k in ("name", "mean", "std") if (v := options.pop(k)) is not None}
    for key in ("margin", "kernel"):
        if options.get(key) is None:
            options.pop(key, None)
    named = provenance["named_stimuli"]
    if provenance["module"] or own or not named:
        call = {
            "weights": options["weights"],
            **own,
            **{k: v for k, v in options.items() if k not in ("model", "weights")},
        }
        model = repr(options["model"])
        if provenance["module"]:
            model = "module"
            del call["weights"]
        words = [
            f"{k}={v!r}" if k != "stimuli" or named else "stimuli=stimuli" for k, v in call.items()
        ]
        return f"probe.run({', '.join([model, *words])})"
    words = ["probe", "run", options["model"]]
    for key, value in options.items():
        if key == "model":
            continue
        values = value if isinstance(value, list) else [value]
        flag = f"--{key.replace('_', '-')}"
        if key == "image_size":
            words += [flag, "x".join(map(str, dict.fromkeys(values)))]
        elif isinstance(value, bool):
            words.append(flag if value else f"--no-{flag[2:]}")
        else:
            words += [flag, ",".join(map(str, values))]
    return shlex.join(words)
