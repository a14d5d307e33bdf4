"""The page of an erasure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...records.erasure import ErasureRecord
from ...report.parts import picture, png, templates
from .pictures import Shown


def page(
    record: ErasureRecord,
    image: NDArray[np.float64],
    place: tuple[int, int],
    shown: Sequence[Shown],
) -> str:
    """Render an erasure: one HTML document that loads nothing from elsewhere."""
    height, width = shown[0].similarity.shape
    box = {
        "left": 100 * place[1] / width,
        "top": 100 * place[0] / height,
        "width": 100 / width,
        "height": 100 / height,
    }
    columns: list[dict[str, Any]] = [
        {
            "method": part.method,
            "similarity": png((part.similarity + 1) / 2),
            "colours": picture(_bytes(part.colours)),
        }
        for part in shown
    ]
    return (
        templates()
        .get_template("erasure.html")
        .render(
            record=record.provenance,
            sentences=record.summary(),
            methods=record.methods,
            image=picture(_bytes(image)),
            shape=image.shape,
            box=box,
            columns=columns,
            scale=png(np.linspace(0, 1, 64)[None]),
            **{
                kind: record.side_by_side(kind)
                for kind in ("matches", "position", "content", "change")
            },
        )
    )


def _bytes(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.round(255 * np.clip(values, 0, 1)).astype(np.uint8)
