"""What the columns of a zoo's tables are: documented, versioned, only ever added to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import pandas as pd

from ...variants.kinds import KINDS

SCHEMA = 1
"""Version of the tables; later ones only add columns."""


class Column(NamedTuple):
    """A column of a table.

    Attributes
    ----------
    dtype : str
        pandas' name of its type.
    meaning : str
        What it holds.
    """

    dtype: str
    meaning: str


_CELL = {
    "cell": Column("str", "name of the cell: model, weights and options"),
    "model": Column("str", "name of the network"),
    "weights": Column("str", "pretrained tag, random or random:k, or a checkpoint's name and hash"),
    "family": Column("str", "file of timm that implements it"),
    "parameters": Column("Int64", "number of parameters"),
    "options": Column("str", "what was asked for, as JSON"),
    "version": Column("str", "version of Probe"),
    "stimuli": Column("str", "what the images were"),
    "readout": Column("str", "what read position from features"),
}

SCORES: dict[str, Column] = {
    **{name: _CELL[name] for name in ("cell", "model", "weights", "stimuli", "readout")},
    "variant": Column("str", "how the network was run: original, or with a source removed"),
    "layer": Column("str", "name of the layer; input is the pixels"),
    "depth": Column("Int64", "order of the layer; 0 is the input"),
    "relative_depth": Column("float64", "depth over that of the last layer"),
    **{
        name: Column("Int64", f"{name} of its feature map")
        for name in ("channels", "height", "width")
    },
    "target": Column("str", "what was read"),
    "metric": Column("str", "spc, mae, r2, control, selectivity, error_px or top1"),
    "value": Column("float64", "mean over test images"),
    "low": Column("float64", "lower bound of the 95 % bootstrap interval"),
    "high": Column("float64", "upper bound"),
    "chance": Column("float64", "score of a constant predictor"),
    "difference": Column("float64", "value of the network as trained less this one, paired"),
    "difference_low": Column("float64", "lower bound"),
    "difference_high": Column("float64", "upper bound"),
    "padding_share": Column("float64", "share, where padding alone was taken away"),
    "padding_share_low": Column("float64", "lower bound"),
    "padding_share_high": Column("float64", "upper bound"),
    "simultaneous_low": Column("float64", "lower bound over all layers and targets at once"),
    "simultaneous_high": Column("float64", "upper bound"),
    "share": Column("float64", "part of what is beyond chance that went with what was taken away"),
    "share_low": Column("float64", "lower bound"),
    "share_high": Column("float64", "upper bound"),
    **{name: _CELL[name] for name in ("family", "parameters", "options", "version")},
}
"""Columns of ``zoo.parquet``: one row per score of each finished cell."""

MODELS: dict[str, Column] = {
    **{name: _CELL[name] for name in ("cell", "model", "weights", "family")},
    "status": Column("str", "finished or failed"),
    "kind": Column("str", "of a failure"),
    "sentence": Column("str", "of a failure: what went wrong"),
    "attempts": Column("Int64", "of a failure: how often it was tried"),
    **{name: _CELL[name] for name in ("parameters", "stimuli", "readout", "options", "version")},
    "image_size": Column("str", "height x width in pixels"),
    "train_images": Column("Int64", "how many the readouts were fitted on"),
    "test_images": Column("Int64", "how many they were scored on"),
    "targets": Column("str", "names with commas between"),
    "sha256": Column("str", "of the weights"),
    "layers": Column("Int64", "number of probed layers"),
    "certified": Column("boolean", "no position is left where most sources are taken away"),
    "residual": Column("float64", "of that certificate"),
    "depth_known": Column("float64", "relative depth of the first layer with an SPC of 0.5"),
    "localisation_error": Column("float64", "least median error in pixels over layers"),
    "seconds": Column("float64", "what it took"),
    "peak_memory": Column("Int64", "bytes of its process"),
    "batch_size": Column("Int64", "images per forward pass"),
    "report": Column("str", "path of its report, from the zoo's folder"),
    "traceback": Column("str", "of a failure: file in the folder of the zoo"),
}
"""Columns of ``models.parquet``: one row per cell; those of :data:`BY_TARGET` follow."""

BY_TARGET: dict[str, Column] = {
    "spc_{}": Column("float64", "best SPC over layers, of the network as run first"),
    "spc_{}_low": Column("float64", "lower bound of its 95 % interval"),
    "spc_{}_high": Column("float64", "upper bound"),
    "layer_{}": Column("str", "where"),
    "depth_{}": Column("float64", "relative depth of that layer"),
    **{
        f"share_{kind.replace(' ', '_')}_{{}}": Column(
            "float64", f"share of that SPC that went with {kind}, taken away alone"
        )
        for kind in KINDS
    },
}
"""Further columns of ``models.parquet`` for each target, whose name stands in the braces."""

TABLES: dict[str, Mapping[str, Column]] = {"scores": SCORES, "models": MODELS}
"""Columns by table."""


def in_schema(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return a table with the types of the schema, whatever its cells hold, and its version.

    Parameters
    ----------
    table : DataFrame
        Scores or models of a zoo.
    name : str
        ``scores`` or ``models``.

    Returns
    -------
    DataFrame
        With ``attrs["schema"]``, which Parquet files keep. Columns that the schema does not name
        stay as they are.
    """
    types = {column: about.dtype for column, about in TABLES[name].items()}
    if name == "models":
        ends = {form.partition("{}")[::2]: about.dtype for form, about in BY_TARGET.items()}
        for column in table.columns:
            for (start, end), dtype in ends.items():
                if column.startswith(start) and column.endswith(end):
                    types.setdefault(column, dtype)
        for column in table.columns:  # of a target's own bounds, which end alike
            if column.startswith("spc_"):
                types[column] = "float64"
    table = table.copy()
    for column in table.columns.intersection(list(types)):
        dtype = types[column]
        if dtype == "str":
            table[column] = table[column].astype(object).where(table[column].notna(), "")
        table[column] = table[column].astype("string" if dtype == "str" else dtype)  # type: ignore[call-overload]
    table.attrs = {"schema": SCHEMA}
    return table
