"""Where a patch lies on a canvas, read from the pooled vector of a layer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn

from ...backbones.layer import Layer, single_precision
from ...errors import ProbeError, whole_number
from ...files import json_bytes, reading, write_files
from ...machine import memory_explained
from ...runner.options import Options, SharedGiven, takes_options
from ...runner.setup import Opened, one_weights, opened, weights_record
from ...scores.tables import as_dicts
from ...stimuli.opening import open_stimuli
from ...text import interval, number_text
from ...variants.run import VariantRun, open_variant
from ...variants.variant import parse_variant
from .page import page, plot_pooled
from .reading import COLUMNS, PlaceReader, accuracies, channel_shares

_MOST = 100


@dataclass(frozen=True)
class Pooled:
    """What the pooled vector of a layer tells of the place of a patch.

    Attributes
    ----------
    table : DataFrame
        ``channels``: ``all``, ``permuted`` (in an order of its own for each image), ``without
        first`` (the ``ablated`` that tell most) or ``without random`` (as many); ``reader``:
        ``fixed`` (fitted to all channels) or ``refitted``; ``value``, the share of test patches ×
        places read right, with its 95 % interval over patches; ``difference``, first less random,
        paired.
    ranking : DataFrame
        ``channel`` and ``share`` of its variance that the place explains, the most first.
    places : ndarray, shape (k, k)
        Share read right at each place.
    provenance : dict
    """

    table: pd.DataFrame
    ranking: pd.DataFrame
    places: NDArray[np.float64]
    provenance: dict[str, Any]

    @property
    def chance(self) -> float:
        """What guessing gives."""
        return 1 / self.places.size

    def summary(self) -> list[str]:
        """Say in sentences how often the place is read, and what ablating channels does."""
        rows = {
            (row["channels"], row["ablated"], row["reader"]): row for row in as_dicts(self.table)
        }
        layer, side = self.provenance["layer"], len(self.places)

        def said(*key: Any) -> str:
            row = rows[key]
            return interval(row["value"], row["low"], row["high"])

        sentences = [
            f"The pooled vector of {layer} tells at which of {side} × {side} places a patch lies "
            f"in {said('all', 0, 'fixed')} of cases; with its channels permuted in "
            f"{said('permuted', 0, 'refitted')} (chance {number_text(self.chance)})."
        ]
        counts = sorted(set(self.table["ablated"]) - {0})
        for count in (counts[len(counts) // 2], counts[-1]) if counts else ():
            row = rows["without first", count, "refitted"]
            apart = interval(*(row[f"difference{end}"] for end in ("", "_low", "_high")))
            sentences.append(
                f"Without the {count} of {len(self.ranking)} channels that tell most, a reader "
                f"fitted to all finds {said('without first', count, 'fixed')}, without as many at "
                f"random {said('without random', count, 'fixed')}; a reader fitted to the rest "
                f"{said('without first', count, 'refitted')} and "
                f"{said('without random', count, 'refitted')} (difference {apart})."
            )
        return sentences + [f"Caution: {text}" for text in self.provenance["cautions"]]

    def plot(self) -> Figure:
        """Draw accuracy by place and by how many channels are ablated."""
        return plot_pooled(self.table, self.places)

    def save(self, folder: str | Path) -> Path:
        """Write ``pooled.csv``, ``pooled_channels.csv``, ``pooled.json`` and ``pooled.html``."""
        record = self.provenance | {"places": self.places.tolist()}
        html = page(self.table, self.ranking, self.places, self.provenance, self.summary())
        files = {
            "pooled.csv": self.table.to_csv(index=False).encode(),
            "pooled_channels.csv": self.ranking.to_csv(index=False).encode(),
            "pooled.html": html.encode(),
            "pooled.json": json_bytes(record),
        }
        write_files(Path(folder), files)
        return Path(folder)


def load_pooled(folder: str | Path) -> Pooled:
    """Read what :meth:`Pooled.save` wrote.

    Raises
    ------
    ProbeError
        If it isn't there or can't be read.
    """
    folder = Path(folder)
    with reading(folder, "pooled"):
        record = json.loads((folder / "pooled.json").read_text(encoding="utf-8"))
        tables = [pd.read_csv(folder / name) for name in ("pooled.csv", "pooled_channels.csv")]
        places = np.array(record.pop("places"), np.float64)
        return Pooled(tables[0][COLUMNS], tables[1], places, record)


@takes_options(
    *("stimuli", "train_images", "test_images", "image_size", "batch_size", "seed", "device"),
    *("progress", "name", "mean", "std", "forward_kwargs"),
    train_images=32,
    test_images=32,
)
def pooled(
    model: str | nn.Module,
    layer: str | None = None,
    *,
    weights: str | Path = "pretrained",
    grid: int = 5,
    fill: float = 0.0,
    seeds: int = 5,
    **options: Unpack[SharedGiven],
) -> Pooled:
    """Read where a patch lies on a canvas from the pooled vector of a layer.

    Every patch is shown at each of ``grid × grid`` places of an otherwise even image. The layer's
    map is averaged over all places of the map, and a linear reader, fitted to training patches,
    says of test patches where they lay. Were features equivariant, with no border, all places would
    give the same vector.

    Parameters
    ----------
    model : str or Module
        A timm name, or any module that maps images (B, 3, H, W).
    layer : str, optional
        Whose features are pooled; by default the last stage.
    weights : str or Path
        ``pretrained``, ``random``, or the path of a checkpoint; a module's own are ``given``.
    grid : int
        Places along each side.
    fill : float, in [0, 1]
        What the canvas shows around the patch; black as published.
    seeds : int
        Draws of permutations and of random channels.
    {options}

    Returns
    -------
    Pooled
        ``train_images`` and ``test_images`` count patches.

    Raises
    ------
    ProbeError
        If something asked for does not exist, can't be had or doesn't fit.

    References
    ----------
    Islam et al. (2021), "Global pooling, more than meets the eye: position information is encoded
    channel-wise in CNNs", arXiv 2108.07884. Their reader is an MLP, this one is linear.
    """
    grid, seeds = whole_number(grid, "grid", 2), whole_number(seeds, "seeds", 1)
    if not 0 <= fill <= 1:
        raise ProbeError(f"fill: expected a number from 0 to 1, got {fill!r}")
    fixed: dict[str, Any] = {"variants": ("original",), "weights": (one_weights(model, weights),)}
    fixed["layers"] = "stages" if layer is None else [layer]
    asked = Options.of(options, **fixed)
    with opened(model, asked) as setup:
        view = open_variant(setup.first, parse_variant("original"), setup.probed, setup.leaves)
        seen = view.layers[-1]
        cell = tuple(side // grid for side in setup.size)
        if min(cell) < 4:
            raise ProbeError(
                f"grid: {grid} places along {setup.size[0]} × {setup.size[1]} pixels leave patches "
                f"of {cell[0]} × {cell[1]}, expected at least 4 × 4: choose fewer"
            )
        counts = {"train": setup.options.train_images, "test": setup.options.test_images}
        if counts["train"] < 4 or counts["test"] < 2:
            raise ProbeError(
                "train_images, test_images: expected at least 4 and 2 patches, got "
                f"{counts['train']} and {counts['test']}"
            )
        size = {f"{split}_images": count for split, count in counts.items()}
        source = open_stimuli(setup.options.stimuli, (cell[0], cell[1]), setup.options.seed, **size)
        patches = {split: source.batch(split, 0, count) for split, count in counts.items()}
        vectors = {
            split: _vectors(setup, view, seen, shown, grid, fill, 10**6 * (split == "test"))
            for split, shown in patches.items()
        }
        record = {
            "model": setup.first.name,
            "layer": seen.name,
            "grid": grid,
            "fill": fill,
            "seeds": seeds,
            "patch": list(cell),
            "stimuli": source.name,
            **setup.recorded("image_size", "seed", "train_images", "test_images"),
            **weights_record(setup.first),
            "cautions": [*setup.cautions, *([source.untested] if source.untested else [])],
            **{k: v for k, v in setup.origin().items() if k in ("device", "versions", "started")},
        }
        seed = setup.options.seed
    rows = accuracies(vectors["train"], vectors["test"], seed, seeds)
    hits = PlaceReader.fit(vectors["train"]).hits(vectors["test"])
    shares = channel_shares(vectors["train"])
    order = np.argsort(-shares, kind="stable")
    ranking = pd.DataFrame({"channel": order, "share": shares[order]})
    places = hits.mean(0).reshape(grid, grid)
    return Pooled(pd.DataFrame(rows, columns=COLUMNS), ranking, places, record)


def _canvases(
    patches: Tensor, grid: int, fill: float, size: tuple[int, int], batch: int
) -> Iterator[Tensor]:
    """Each patch (N, 3, h, w) at each place, row by row, on an even image, in batches."""
    height, width = patches.shape[2:]
    margin = [(side - grid * part) // 2 for side, part in zip(size, (height, width), strict=True)]
    count = len(patches) * grid**2
    for start in range(0, count, batch):
        numbers = range(start, min(start + batch, count))
        images = torch.full((len(numbers), patches.shape[1], *size), fill)
        for image, number in zip(images, numbers, strict=True):
            patch, place = divmod(number, grid**2)
            row, column = divmod(place, grid)
            top, left = margin[0] + row * height, margin[1] + column * width
            image[:, top : top + height, left : left + width] = patches[patch]
        yield images


def _vectors(
    setup: Opened,
    view: VariantRun,
    seen: Layer,
    patches: Tensor,
    grid: int,
    fill: float,
    first: int,
) -> NDArray[np.float64]:
    """Pooled vectors, shape (N, grid², C)."""
    pooled: list[Tensor] = []

    def receive(layer: Layer, features: Tensor) -> None:
        if layer.name == seen.name:
            pooled.append(single_precision(features).double().mean((2, 3)).cpu())

    batches = _canvases(patches, grid, fill, setup.size, setup.options.batch_size)
    with setup.bar(1, setup.first.name) as bar:
        for images in batches:
            with memory_explained(len(images)):
                view.run(setup.first, images, receive, seed=setup.options.seed, first=first)
            first += len(images)
            bar.update(len(images) / grid**2)
    vectors = torch.cat(pooled)
    if not torch.isfinite(vectors).all():
        raise ProbeError(
            f"features of {seen.name} are not finite (NaN or infinity): check the weights, or "
            "choose a layer before it"
        )
    return vectors.unflatten(0, (len(patches), grid**2)).numpy()
