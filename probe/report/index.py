"""The index over a folder of results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from markupsafe import Markup

from ..errors import ProbeError
from ..files import write_files
from ..records.record import Record
from ..records.store import read_record
from ..text import families, short_name
from .figures.conditions import leading
from .parts import certified, templates
from .style import INPUT

_OTHERS = {
    "survey": "Survey of timm's architectures: which are certified to be without position once "
    "padding, or every source, is taken away",
    "erasure": "Position taken out of a layer",
    "pooled": "Position after pooling",
    "ladder": "From 0 to 80 to 100: one network without a border, as trained, and with coordinates",
    "coordconv": "The coordinate tasks: position to pixel and back, with CoordConv and without",
    "instances": "Telling identical objects apart: what segmentation asks of position",
    "reproduction": "The published table, measured",
}


_ZOO = "A zoo: many networks, one leaderboard"


def write_index(folder: Path) -> Path:
    """Write ``index.html`` over all results that lie in the folders of a folder.

    Returns
    -------
    Path
        Of the index.

    Raises
    ------
    ProbeError
        If it can't be written.
    """
    entries: list[dict[str, Any]] = []
    faults: list[str] = []
    for path in sorted(folder.glob("*/run.json")):
        try:
            entries.append(_entry(Record(**read_record(path.parent)), path.parent))
        except (ProbeError, LookupError, TypeError, ValueError) as error:
            faults.append(f"{path.parent.name} is left out: {error}")
    others = {
        title: [p.relative_to(folder).as_posix() for p in sorted(folder.glob(f"*/{name}.html"))]
        for name, title in _OTHERS.items()
    }
    zoos = (p.with_name("index.html") for p in sorted(folder.glob("*/zoo.json")))
    others[_ZOO] = [p.relative_to(folder).as_posix() for p in zoos if p.exists()]
    document = (
        templates().get_template("index.html").render(entries=entries, faults=faults, others=others)
    )
    write_files(folder, {"index.html": document.encode()})
    return folder / "index.html"


def _entry(record: Record, folder: Path) -> dict[str, Any]:
    spc = record.table[(record.table["metric"] == "spc") & (record.table["layer"] != INPUT)]
    groups = families(w for w, _ in record.conditions).values()
    rows = []
    for weights, variant in leading(record.conditions):
        members = next(group for group in groups if weights in group)
        scores = spc[spc["weights"].isin(members) & (spc["variant"] == variant)]
        label = f"random ({len(members)} seeds)" if len(members) > 1 else short_name(weights)
        marks = {certified(variant, record.certificates[w, variant]) for w in members}
        rows.append(
            {
                "condition": f"{label}, {variant}",
                "best": scores.iloc[int(scores["value"].argmax())],
                "certified": Markup(" / ").join(sorted(marks)),
            }
        )
    options = record.provenance["options"]
    layers = len([name for name in record.layers if name != INPUT])
    has_report = (folder / "report.html").exists()
    return {
        "model": record.model,
        "link": f"{folder.name}/report.html" if has_report else "",
        "about": [
            f"{layers} layer{'s' * (layers != 1)}",
            f"{record.table['readout'].iloc[0]} readout",
            f"{options['train_images']} train and {options['test_images']} test images",
            str(options["stimuli"]),
            "{} × {} pixels".format(*options["image_size"]),
            record.provenance["started"][:10],
        ],
        "rows": rows,
    }
