"""A reproduction: a published table, measured, with its sentences and its files."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ...files import json_bytes, reading, write_files
from ...targets import note_earlier_targets
from ...text import interval, number_text, short_name
from .page import page
from .published import COLUMNS, LEAVES, MEASURED, NEEDS_IMAGES, PIXELS, differences


@dataclass(frozen=True)
class Reproduction:
    """A published table, measured.

    Attributes
    ----------
    table : DataFrame
        One row per number, with columns :data:`COLUMNS`: ``published`` and ``value`` with its
        95 % interval, NaN where there is none; ``status`` begins with :data:`MEASURED`, or says
        why there is no value.
    provenance : dict
        Paper, images, options, where weights came from, versions.
    """

    table: pd.DataFrame
    provenance: dict[str, Any]

    @property
    def trained_on(self) -> str:
        """``photographs``, or ``leaves`` where none were given."""
        return self.provenance["trained_on"]

    def summary(self) -> list[str]:
        """Say it in sentences: what each network scores, and which rows were not measured."""
        options, sentences = self.provenance["options"], []
        measured = self.table["status"].str.startswith(MEASURED)
        own = self.table["stimuli"] == self.trained_on
        wanted = self.table[measured & own & (self.table["metric"] == "spc")]
        wanted = wanted.drop_duplicates(["row", "target"])
        wanted = wanted.sort_values("row", key=lambda rows: rows == PIXELS, kind="stable")
        for (row, weights), spc in wanted.groupby(["row", "weights"], sort=False):
            scores = []
            for cell in spc.to_dict("records"):
                text = f"{cell['target'].replace('_', ' ')} "
                text += interval(cell["value"], cell["low"], cell["high"])
                if not np.isnan(cell["published"]):
                    text += f" (published {number_text(cell['published'], '.3f')})"
                scores.append(text)
            who = f"{row}, {short_name(str(weights))} weights" if weights else row
            sentences.append(f"{who}, on {self.trained_on}: SPC {', '.join(scores)}.")
        missing = self.missing()
        for reason in dict.fromkeys(missing.values()):
            rows = ", ".join(row for row, why in missing.items() if why == reason)
            sentences.append(f"Not measured: {rows}: {reason}.")
        if self.trained_on == LEAVES:
            sentences.append(
                f"Caution: readouts were trained on {options['train_images']} leaves, which carry "
                "no position of their own, and not on photographs; the published figures are for "
                "photographs: give a folder of them (--images FOLDER) for a like comparison."
            )
        return sentences

    def differences(self) -> list[str]:
        """Say what differs from the paper, one point at a time."""
        return differences(self.provenance)

    def missing(self) -> dict[str, str]:
        """Rows without any measured value, and why."""
        found = {}
        for row, rows in self.table.groupby("row", sort=False):
            reasons = rows["status"][~rows["status"].str.startswith(MEASURED)]
            if len(reasons) == len(rows):
                found[str(row)] = next((r for r in reasons if r != NEEDS_IMAGES), NEEDS_IMAGES)
        return found

    def save(self, folder: str | Path) -> Path:
        """Write ``reproduction.csv`` and ``reproduction.json``, whole or not at all.

        Raises
        ------
        ProbeError
            If they can't be written.
        """
        files = {
            "reproduction.csv": self.table.to_csv(index=False).encode(),
            "reproduction.json": json_bytes(self.provenance),
        }
        write_files(Path(folder), files)
        return Path(folder)

    def to_html(self, path: str | Path) -> Path:
        """Write a page that needs nothing else: the tables, measured beside published.

        Parameters
        ----------
        path : str or Path
            Its folder is made if missing.

        Raises
        ------
        ProbeError
            If the file can't be written.
        """
        path = Path(path)
        write_files(
            path.parent, {path.name: page(self.table, self.provenance, self.summary()).encode()}
        )
        return path


def load_reproduction(folder: str | Path) -> Reproduction:
    """Read what :meth:`Reproduction.save` wrote.

    Raises
    ------
    ProbeError
        If it isn't there or can't be read.
    """
    folder = Path(folder)
    with reading(folder, "reproduction"):
        provenance = json.loads((folder / "reproduction.json").read_text(encoding="utf-8"))
        content = io.BytesIO((folder / "reproduction.csv").read_bytes())
        table = pd.read_csv(content, dtype=DTYPES, keep_default_na=False, na_values=_NO_NUMBER)
        note_earlier_targets(provenance, table["target"], folder)
        return Reproduction(table[COLUMNS], provenance)


_NUMBERS = ("published", "value", "low", "high")

DTYPES = {column: "float64" if column in _NUMBERS else "str" for column in COLUMNS}

_NO_NUMBER = {column: [""] for column in _NUMBERS}
