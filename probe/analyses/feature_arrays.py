"""Raw features of layers, as arrays or memory maps on disk."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..backbones.layer import Layer, single_precision
from ..errors import one_of, whole_number
from ..files import check_folder
from ..machine import memory_explained
from ..readouts.base import check_memory
from ..runner.job import FIRST_TEST_IMAGE
from ..runner.options import Options, takes_options
from ..runner.setup import one_weights, opened
from ..stimuli.scenes import antithetic_batch
from ..stimuli.source import SPLITS


@takes_options(
    *("image_size", "batch_size", "seed", "device", "margin", "name", "mean", "std", "progress"),
    "forward_kwargs",
)
def features(  # noqa: D417
    model: str | nn.Module,
    stimuli: Any = "leaves",
    layers: str | list[str] = "stages",
    *,
    count: int | None = None,
    split: str = "train",
    weights: str | Path = "pretrained",
    variant: str = "original",
    whole: bool = False,
    out: str | Path | None = None,
    **options: Any,
) -> dict[str, NDArray[Any]]:
    """Return what layers give for images, batch by batch.

    Parameters
    ----------
    model : str or Module
        A timm name, or any module that maps images.
    stimuli : str, Path, Tensor, ndarray or Stimuli
        Images (N, 3, H, W) in [0, 1], all of which are taken, or what :func:`probe.run` takes.
    layers : str or list of str
        Which, see :func:`probe.layers`.
    count : int, optional
        How many images; 64 by default, or all that were given.
    split : str
        ``train`` or ``test``: which images of a run to take, where none were given. With its
        ``count``, seed and image size they are the run's own.
    weights, variant : str
        One of those of :func:`probe.run`.
    whole : bool
        Keep every cell. By default maps of more than 28 places a side are averaged down, as
        readouts see them.
    out : str or Path, optional
        Folder for one ``.npy`` file a layer: what is returned are memory maps of these, so that
        memory holds one batch. By default arrays in memory.
    {options}

    Returns
    -------
    dict of str to ndarray
        By layer, float32, shape (N, channels, height, width).

    Raises
    ------
    ProbeError
        If something asked for can't be had, or the arrays don't fit into memory.

    Examples
    --------
    >>> result.readouts["pretrained", "original", "blocks.3"].predict(
    ...     probe.features(result.model, images, ["blocks.3"])["blocks.3"]
    ... )
    """
    one_of(split, SPLITS, "split")
    given = isinstance(stimuli, Tensor | np.ndarray)
    count = (len(stimuli) if given else 64) if count is None else whole_number(count, "count", 1)
    shares = {"train_images": max(2, count), "test_images": max(1, count)}
    if given:
        # Both splits of a run, of which all that was given is the first.
        stimuli = torch.as_tensor(stimuli)
        if stimuli.ndim == 4 and len(stimuli):
            stimuli, split = _filled(stimuli[:count]), "train"
            shares = {"train_images": len(stimuli) - 1, "test_images": 1}
    elif split == "train":
        shares["test_images"] = 1
    asked = Options.of(
        options,
        **shares,
        stimuli=stimuli,
        layers=layers,
        weights=one_weights(model, weights),
        variants=variant,
    )
    with opened(model, asked) as setup:
        job = setup.job()
        (variant_asked,) = setup.variants
        view = setup.condition(job, setup.first, variant_asked).view
        shapes = {
            layer.name: (count, layer.channels, *_size(layer, whole)) for layer in view.layers
        }
        arrays = _empty(shapes, None if out is None else Path(out))
        batch, first = partial(setup.stimuli.batch, "train"), 0
        if split == "test":
            first = FIRST_TEST_IMAGE
            batch = partial(antithetic_batch, setup.stimuli, stride=setup.stride)
        with setup.bar(1, f"features of {setup.first.name}") as bar:
            bar.total = count
            for start in range(0, count, asked.batch_size):
                stop = min(start + asked.batch_size, count)

                def keep(layer: Layer, x: Tensor, part: slice = slice(start, stop)) -> None:
                    x = single_precision(x)
                    arrays[layer.name][part] = (x if whole else layer.reduce(x)).cpu().numpy()

                with memory_explained(stop - start):
                    images = batch(start, stop, setup.margin)
                    view.run(setup.first, images, keep, seed=asked.seed, first=first + start)
                bar.update(stop - start)
    return arrays


def _filled(images: Tensor) -> Tensor:
    """Add copies of the last image, which no one sees, where there is more to open than to take."""
    return torch.cat([images, images[-1:].expand(max(1, 3 - len(images)), *images.shape[1:])])


def _size(layer: Layer, whole: bool) -> tuple[int, int]:
    return (layer.height, layer.width) if whole else layer.places


def _empty(shapes: Mapping[str, tuple[int, ...]], folder: Path | None) -> dict[str, NDArray[Any]]:
    """Room for the features, in memory or in files."""
    if folder is None:
        needed = sum(4 * math.prod(shape) for shape in shapes.values())
        instead = "choose fewer images or layers, or a folder for memory maps with out="
        check_memory(needed, torch.device("cpu"), "the features", instead)
        return {name: np.empty(shape, np.float32) for name, shape in shapes.items()}
    check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return {
        name: np.lib.format.open_memmap(
            folder / f"{quote(name, safe='')}.npy", "w+", np.float32, shape
        )
        for name, shape in shapes.items()
    }
