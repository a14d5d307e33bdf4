"""All ways of taking position out of one layer, measured on the same images."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import nn

from ..._version import __version__
from ...erasers.erase import TRAIN_IMAGES, gather
from ...erasers.eraser import Eraser
from ...erasers.evaluate import READERS, evaluate, layer_features, one_layer
from ...erasers.fit import HOWS
from ...erasers.matching import SHIFTS, match
from ...errors import ProbeWarning, one_of
from ...files import json_bytes, write_files
from ...records.erasure import PLAIN, RECORD_FILE, ErasureRecord
from ...runner.options import SharedGiven, listed, takes_options
from .page import page
from .pictures import Shown, component_colours, patch_similarity, plot_erased

_TOLD = (
    *("targets", "image_size", "batch_size", "seed", "device", "progress", "name", "mean", "std"),
    "forward_kwargs",
)

READ_IMAGES = 256
"""Fresh images that readouts are fitted to, at most."""


@dataclass(frozen=True)
class Erasure(ErasureRecord):
    """What each way of erasing leaves at one layer, with the erasers and a picture.

    Attributes
    ----------
    erasers : dict of str to Eraser
        By way.
    picture : ndarray, shape (H, W, 3), in [0, 1]
    shown : tuple of Shown
        The picture's features, plain and by way.
    """

    erasers: dict[str, Eraser]
    picture: NDArray[np.float64]
    shown: tuple[Shown, ...]

    @property
    def place(self) -> tuple[int, int]:
        """Row and column of the patch that others are compared with."""
        height, width = self.shown[0].similarity.shape
        return height // 2, width // 2

    def plot(self) -> Figure:
        """Draw patch similarity and principal components of one picture, before and after."""
        return plot_erased(self.picture, self.place, self.shown)

    def save(self, folder: str | Path) -> Path:
        """Write ``erasure.csv``, ``matches.csv``, ``erasure.json``, ``erasure.html``, and erasers.

        ``eraser-mean.pt`` and the like are read by ``torch.load(…, weights_only=False)``.
        """
        files = self.files()
        for how, eraser in self.erasers.items():
            content = io.BytesIO()
            torch.save(copy.deepcopy(eraser).cpu(), content)
            files[f"eraser-{how}.pt"] = content.getvalue()
        files["erasure.html"] = page(self, self.picture, self.place, self.shown).encode()
        files[RECORD_FILE] = json_bytes(self.provenance)
        write_files(Path(folder), files)
        return Path(folder)


@takes_options(
    *("targets", "train_images", "test_images", "image_size", "batch_size", "seed", "device"),
    *("progress", "name", "mean", "std", "forward_kwargs"),
    train_images=TRAIN_IMAGES,
    test_images=256,
)
def erasure(
    model: str | nn.Module,
    layer: str,
    how: str | Sequence[str] = HOWS,
    *,
    images: str | Path | None = None,
    weights: str | Path = "pretrained",
    readers: Sequence[tuple[str, int | None]] = READERS,
    pairs: int = 64,
    **options: Unpack[SharedGiven],
) -> Erasure:
    """Take position out of one layer in several ways, and measure each on fresh leaves.

    Parameters
    ----------
    model : str or Module
        A timm name, or any module that maps images (B, 3, H, W).
    layer : str
        Whose features.
    how : str or sequence of str
        ``mean``, ``project``, ``constant``, see :func:`probe.erase`.
    images : str or Path, optional
        A folder of photographs, for the matching test beside leaves and for the pictures.
    weights : str or Path
        ``pretrained``, ``random``, or the path of a checkpoint; a module's own are ``given``.
    readers : sequence of (str, int or None)
        Readouts, each with its kernel.
    pairs : int
        Pairs of crops of the matching test.
    {options}

    Returns
    -------
    Erasure

    Raises
    ------
    ProbeError
        If something asked for does not exist, can't be had or doesn't fit.
    """
    ways = [one_of(way, HOWS, "how") for way in listed(how, "how")]
    given: dict[str, Any] = {k: v for k, v in options.items() if k in _TOLD} | {"weights": weights}
    gathered = gather(model, [layer], train_images=options["train_images"], **given)
    erasers = {way: gathered.eraser(layer, way) for way in ways}
    fresh = given | {"seed": options["seed"] + 1, "drawn": options["seed"]}
    test_images = options["test_images"]
    read_images = min(gathered.record["train_images"], READ_IMAGES)
    counts: dict[str, Any] = {"train_images": read_images, "test_images": test_images}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ProbeWarning)  # they are told as cautions
        evaluation = evaluate(erasers, model, layer, readers, **counts, **fresh)
    table = evaluation.table.rename(columns={"state": "method"}).replace(
        {"method": {"before": PLAIN}}
    )
    sources = ["leaves"] + ([str(images)] if images is not None else [])
    matches = [
        match(model, layer, erasers, pairs=pairs, stimuli=source, **fresh).assign(images=source)
        for source in sources
    ]
    settings = fresh | {"stimuli": sources[-1], "train_images": 2, "test_images": 2}
    with one_layer(model, layer, **settings) as (setup, view, seen):
        picture = setup.stimuli.batch("test", 0, 1)
        features = layer_features(setup, view, picture)
    shown = []
    for method, eraser in {PLAIN: None, **erasers}.items():
        clean = features if eraser is None else eraser.on("NCHW").to(features.device)(features)
        places = seen.reduce(clean)[0].double().cpu().numpy()
        middle = places.shape[1] // 2, places.shape[2] // 2
        colours = component_colours(places)
        shown.append(Shown(method, patch_similarity(places, middle), colours))
    record = gathered.record | {"layer": layer, "images": sources, "pairs": pairs, "shifts": SHIFTS}
    record |= {"read_images": read_images, "test_images": test_images}
    record |= {"cautions": evaluation.cautions, "version": __version__}
    record["erasers"] = {way: eraser.record for way, eraser in erasers.items()}
    image = picture[0].permute(1, 2, 0).double().cpu().numpy()
    return Erasure(
        table, pd.concat(matches, ignore_index=True), record, erasers, image, tuple(shown)
    )
