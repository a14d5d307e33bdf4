"""The published table: figures of a paper, and the same measured here, side by side.

Islam, Jia and Bruce (2020) trained one readout per network and target on natural photographs, and
tested it on other photographs and on black, white and noise images. Their Table 1 is about the
pixels themselves, VGG16 and ResNet152; their Table 4 about VGG16 with its padding removed.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm.auto import tqdm

from ...backbones.backbone import Backbone, load_backbone
from ...backbones.catalogue import expand_models, known_model
from ...backbones.choice import total_stride
from ...backbones.probed import evaluating, probe_layers
from ...errors import ProbeError, ProbeWarning, one_of
from ...files import check_folder
from ...machine import device_name, exact_float32, memory_explained, pick_device, versions
from ...readouts.posenet import PoseNet
from ...runner.job import CONCAT, Condition, Job
from ...runner.options import Options, SharedGiven, takes_options
from ...runner.passes import fit, score, test, train
from ...runner.setup import Stopwatch, readout_spec
from ...scores.tables import Scored, score_layer, score_rows
from ...stimuli.leaves import Leaves
from ...stimuli.noise import Constant, GaussianNoise
from ...stimuli.photos import WholePhotos
from ...stimuli.source import Stimuli
from ...targets import TARGETS, formulas, target_map
from ...text import is_random
from ...variants.run import open_variant
from ...variants.variant import parse_variant
from ..names import PAPERS
from .published import (
    COLUMNS,
    LEAVES,
    MEASURED,
    METRICS,
    NEEDS_IMAGES,
    PHOTOGRAPHS,
    PIXEL_ROWS,
    PIXELS,
    PUBLISHED_ROWS,
    TESTED,
    Row,
    published,
)
from .table import DTYPES, Reproduction


@takes_options(
    *("train_images", "test_images", "image_size", "batch_size", "readout", "seed", "device"),
    "progress",
    train_images=512,
    image_size=224,
    readout="posenet",
)
def reproduce(
    paper: str = "islam2020",
    images: str | Path | None = None,
    models: str | Sequence[str] | None = None,
    *,
    weights: str | Path = "pretrained",
    folder: str | Path | None = None,
    **options: Unpack[SharedGiven],
) -> Reproduction:
    """Measure a published table with whatever weights are at hand.

    For each network and variant one readout per target is trained, on all stages together, resized
    to a common grid of 28 × 28 places and concatenated; it is tested on other images of the kind it
    was trained on, and on black, white and noise images. What can't be measured has a row that
    says why.

    Parameters
    ----------
    paper : str
        One of :data:`PAPERS`.
    images : str or Path, optional
        A folder of photographs, of which some are for training and others for testing. Without
        one, readouts are trained on leaves: rows of photographs say what they need, and rows of
        leaves are measured in their place.
    models : str or sequence of str, optional
        timm names or globs, in place of the paper's networks. Those of the paper's architectures
        stand beside its figures.
    weights : str or Path
        ``pretrained``, ``random`` (beside no published figure) or a checkpoint file, see
        :func:`probe.run`.
    folder : str or Path, optional
        Where to keep the table; it is written again after each network.
    {options}

    Returns
    -------
    Reproduction

    Raises
    ------
    ProbeError
        If there is no such paper, model or folder, or an option is not what it should be.

    Notes
    -----
    Black and white images are all the same: one of each is tested, and has no interval.

    It follows the paper and its authors' code, and says where it doesn't, see
    :meth:`Reproduction.differences`.

    References
    ----------
    Islam, Jia, Bruce (2020), "How much position information do convolutional neural networks
    encode?", arXiv 2001.08248, sections 3 and 4, Tables 1 and 4.

    Examples
    --------
    >>> found = probe.reproduce(images="~/photographs", models="tf_efficientnet_lite0")
    >>> found.table.query("metric == 'spc' and stimuli == 'black'")
    """
    clock = Stopwatch()
    one_of(paper, PAPERS, "paper")
    rows = _chosen(models)
    chosen = Options.of(options, weights=str(weights), variants="original", concat=True)
    size, seed = chosen.image_size or (224, 224), chosen.seed
    counts = chosen.train_images, chosen.test_images
    shares = {"train_images": counts[0], "test_images": counts[1]}
    head = readout_spec(replace(chosen, progress=False))
    if chosen.readout == PoseNet.name:
        head = replace(head, params={"align_corners": False})
    pick_device(chosen.device)
    if folder is not None:
        check_folder(Path(folder))
    source = Leaves(size, seed) if images is None else WholePhotos(images, size, seed, **shares)
    trained_on = LEAVES if images is None else PHOTOGRAPHS
    tested = {trained_on: source, **_without_content(size, seed)}
    provenance: dict[str, Any] = {
        "paper": paper,
        "title": PAPERS[paper],
        "trained_on": trained_on,
        "options": {
            "images": None if images is None else str(images),
            "models": None if models is None else [row.model for row in rows if row.model],
            "weights": str(weights),
            **shares,
            "image_size": list(size),
            "batch_size": chosen.batch_size,
            "readout": str(chosen.readout),
            "seed": seed,
            "device": str(chosen.device),
        },
        "backbones": [],
        "maps": formulas(TARGETS),
        "warnings": [],
        "versions": versions(),
        **clock.times(),
    }
    tables: list[pd.DataFrame] = []
    named: dict[str, Any] = {
        "weights": str(weights),
        "seed": seed,
        "device": chosen.device,
        "image_size": size,
        **_NO_NORMALISATION,
    }
    for row in rows:
        found: dict[tuple[str, str], pd.DataFrame] = {}
        reasons: dict[str, str] = {}
        try:
            backbone = _pixels() if not row.model else load_backbone(row.model, **named)
            provenance["backbones"].append(_origin(row, backbone))
        except ProbeError as error:
            reasons = dict.fromkeys(row.variants, str(error))
        for variant in row.variants:
            if variant in reasons:
                continue
            own = tested if variant == "original" else {trained_on: source}
            job = Job(source, list(TARGETS), 1, 0, chosen.batch_size, seed, *counts, head)
            try:
                measured = _measure(job, backbone, row.layers, variant, own, chosen.progress)
                found |= {(variant, stimuli): table for stimuli, table in measured}
            except ProbeError as error:
                reasons[variant] = str(error)
        tables.append(_rows(row, str(weights), trained_on, found, reasons))
        provenance |= {"warnings": source.cautions, **clock.times()}
        if folder is not None:
            Reproduction(_beside(tables), provenance).save(folder)
    for message in source.cautions:
        warnings.warn(message, ProbeWarning, stacklevel=3)
    return Reproduction(_beside(tables), provenance)


def _without_content(size: tuple[int, int], seed: int) -> dict[str, Stimuli]:
    """The paper's other test images."""
    uniform = {name: Constant(size, seed, name=name) for name in ("black", "white")}
    return {**uniform, "noise": GaussianNoise(size, seed)}


def _chosen(models: str | Sequence[str] | None) -> tuple[Row, ...]:
    """The paper's networks, or those that were named; the pixels always."""
    if models is None:
        return PUBLISHED_ROWS
    names = [models] if isinstance(models, str) else list(models)
    if not names or not all(isinstance(name, str) for name in names):
        raise ProbeError(f"models: expected one or several timm names, got {models!r}")
    names = [known_model(name) for name in expand_models(names)]
    rows = {row.model.partition(".")[0]: row for row in PUBLISHED_ROWS if row.model}
    like = [rows.get(name.partition(".")[0], Row("", "", "")) for name in names]
    named = (Row(n, n, row.beside, layers=row.layers) for n, row in zip(names, like, strict=True))
    return PIXEL_ROWS, *named


_NO_NORMALISATION: dict[str, Any] = {"mean": (0, 0, 0), "std": (1, 1, 1)}
"""The authors' code feeds images in [0, 1]."""


def _pixels() -> Backbone:
    """A network that hands on the image as it is."""
    pixels = nn.Sequential(nn.Identity())
    return load_backbone(pixels, "given", name=PIXELS, **_NO_NORMALISATION)


def _origin(row: Row, backbone: Backbone) -> dict[str, Any]:
    return {
        "row": row.name,
        "model": row.model,
        "source": backbone.source if row.model else "the image itself",
        "sha256": backbone.sha256 if row.model else "",
        "device": device_name(backbone.device),
    }


def _measure(
    job: Job,
    backbone: Backbone,
    layers: str | Sequence[str],
    variant: str,
    tested: Mapping[str, Stimuli],
    progress: bool,
) -> Iterator[tuple[str, pd.DataFrame]]:
    """Train readouts under a variant; yield their scores on each kind of images."""
    size = job.source.image_size
    with exact_float32(), evaluating(backbone.model):
        with memory_explained(2):
            leaves = Leaves(size, job.seed).batch("certificate", 0, 2)
            taps = probe_layers(backbone.model, layers, backbone.normalise(leaves), backbone.name)
            seen = open_variant(backbone, parse_variant(variant), taps, leaves)
        job = replace(job, stride=total_stride(backbone.model))
        parts = {
            stimuli: replace(
                job,
                source=source,
                test_images=1 if isinstance(source, Constant) else job.test_images,
            )
            for stimuli, source in tested.items()
        }
        condition = Condition.of(job, backbone, seen)
        with tqdm(
            total=job.train_images + sum(part.test_images for part in parts.values()),
            desc=f"{backbone.name}, {variant}",
            unit="img",
            disable=not progress,
            dynamic_ncols=True,
        ) as bar:
            train(job, [condition], bar)
            fit(job, condition)
            for stimuli, part in parts.items():
                test(part, [condition], bar)
                scored = _scored(condition)
                yield stimuli, score_rows(scored, None, False, job.seed, part.scenes)


def _scored(condition: Condition) -> Scored:
    """Scores of the last test images: of PosENet at the image's pixels, else at its places."""
    readout = condition.readouts[CONCAT]
    if not isinstance(readout, PoseNet):
        score(condition)
        return condition.scored[CONCAT]
    truth = condition.truths[CONCAT]
    size, count = truth.image_size, len(truth.targets)
    pixels = np.stack([target_map(target, *size) for target in truth.targets])
    at_pixels = replace(truth, maps=pixels, order=None)
    batches = [
        score_layer(readout.upsample(torch.from_numpy(maps[None, :count]), size).numpy(), at_pixels)
        for batch in condition.predictions[CONCAT]
        for maps in batch
    ]
    return replace(batches[0], values=np.concatenate([batch.values for batch in batches]))


def _rows(
    row: Row,
    weights: str,
    trained_on: str,
    found: Mapping[tuple[str, str], pd.DataFrame],
    reasons: Mapping[str, str],
) -> pd.DataFrame:
    """A network's rows: every target and metric of the tables, measured or with the reason."""
    tested = TESTED if trained_on == PHOTOGRAPHS else (LEAVES, *TESTED)
    tables = []
    for table, variant, stimuli in row.cells(tested):
        cells = pd.MultiIndex.from_product([list(TARGETS), METRICS], names=["target", "metric"])
        part = pd.DataFrame(index=cells, columns=["value", "low", "high"], dtype=float)
        status = reasons.get(variant, NEEDS_IMAGES)
        if (variant, stimuli) in found:
            scores = found[variant, stimuli].set_index(["target", "metric"])
            part = scores.loc[cells, ["value", "low", "high"]]
            like = stimuli == trained_on or trained_on == PHOTOGRAPHS
            status = MEASURED if like else f"{MEASURED}, trained on {trained_on}"
        tables.append(
            part.reset_index().assign(
                table=table,
                row=row.name if variant == "original" else f"{row.name} without padding",
                model=row.model,
                weights=weights if row.model else "",
                variant=variant,
                stimuli=stimuli,
                status=status,
                beside="" if row.model and is_random(weights) else row.beside,
            )
        )
    return pd.concat(tables, ignore_index=True)


def _beside(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Put published figures beside rows, and tables one below the other."""
    keys = ["table", "beside", "variant", "stimuli", "target", "metric"]
    rows = pd.concat(tables, ignore_index=True)
    rows = rows.merge(published().rename(columns={"row": "beside"}), "left", keys)
    rows = rows.sort_values("table", kind="stable", ignore_index=True)[COLUMNS]
    return rows.astype(DTYPES)
