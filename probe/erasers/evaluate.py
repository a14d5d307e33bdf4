"""The proof: what readouts find before and after, and what else changed."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from ..backbones.backbone import load_backbone
from ..backbones.layer import Layer, single_precision
from ..errors import ProbeError, ProbeWarning
from ..machine import memory_explained
from ..readouts.base import FOLDS
from ..readouts.spec import ReadoutSpec
from ..runner.job import FIRST_TEST_IMAGE, layer_truth, layers_seen
from ..runner.options import Options
from ..runner.setup import Opened, one_weights, opened
from ..scores.intervals import bootstrap_interval, bootstrap_share
from ..scores.tables import Scored, score_layer, score_rows
from ..stimuli.scenes import antithetic_batch, scenes
from ..targets import TARGETS, layer_targets
from ..text import interval, is_random
from ..variants.run import VariantRun, open_variant
from ..variants.variant import parse_variant
from .content import content_errors, content_maps

READERS: tuple[tuple[str, int | None], ...] = (
    ("ridge", 1),
    ("ridge", 3),
    ("softmax", None),
    ("posenet", None),
)
"""Readouts, each with its kernel, that an erasure is proven with."""

_LITTLE = 0.05

COLUMNS = ["kind", "readout", "target", "metric", "state", "value", "low", "high"]


@dataclass(frozen=True)
class Evaluation:
    """What is left after erasing, and what else changed.

    Attributes
    ----------
    table : DataFrame
        ``kind``: ``position`` (what a readout finds), ``content`` (R² of the mean colour and the
        dominant orientation of each place's own patch, read linearly) or ``change`` (share of
        variance kept, cosine to the original); ``readout``, ``target``, ``metric``; ``state``:
        ``before`` or ``after``; ``value`` with its 95 % interval over test images.
    cautions : list of str
    """

    table: pd.DataFrame
    cautions: list[str]

    def summary(self) -> list[str]:
        """Say in sentences what each readout finds before and after, and what changed."""
        rows = self.table[self.table["metric"] == "spc"]
        sentences = []
        for readout, part in rows.groupby("readout", sort=False):
            said = []
            for state in ("before", "after"):
                most = part[part["state"] == state].sort_values("value", key=np.abs).iloc[-1]
                said.append(
                    f"{state} at most {most['value']:.2f} [{most['low']:.2f}, {most['high']:.2f}] "
                    f"({most['target']})"
                )
            sentences.append(f"SPC of {readout}: {', '.join(said)}.")
        for (target, metric), part in self.table[self.table["kind"] != "position"].groupby(
            ["target", "metric"], sort=False
        ):
            said = [
                f"{r['state']} {r['value']:.3f} [{r['low']:.3f}, {r['high']:.3f}]"
                for r in part.to_dict("records")
            ]
            sentences.append(f"{metric} ({target}): {', '.join(said)}.")
        return sentences + self.cautions


@contextmanager
def one_layer(
    model: str | nn.Module, layer: str, *, drawn: int | None = None, **options: Any
) -> Iterator[tuple[Opened, VariantRun, Layer]]:
    """Open a network with one layer of it; random weights are drawn from a seed of their own."""
    weights = one_weights(model, options.pop("weights", "pretrained"))
    if drawn is not None and isinstance(model, str) and is_random(weights):
        names = ("device", "image_size", "mean", "std")
        given = {name: options[name] for name in names if name in options}
        options = {"name": model} | options
        model, weights = load_backbone(model, weights, seed=drawn, **given).model, "given"
    fixed: dict[str, Any] = {"variants": ("original",), "layers": [layer], "weights": (weights,)}
    with opened(model, Options.of({"progress": False} | options, **fixed)) as setup:
        view = open_variant(setup.first, parse_variant("original"), setup.probed, setup.leaves)
        yield setup, view, view.layers[0]


def layer_features(setup: Opened, view: VariantRun, images: Tensor, first: int = 0) -> Tensor:
    """Return the map (B, C, H, W) of the view's only layer for images in [0, 1]."""
    maps: list[Tensor] = []
    size = setup.options.batch_size
    for start in range(0, len(images), size):
        part = images[start : start + size]
        with memory_explained(len(part)):
            view.run(
                setup.first,
                part,
                lambda _, features: maps.append(single_precision(features).clone()),
                seed=setup.options.seed,
                first=first + start,
            )
    return torch.cat(maps)


def evaluate(
    erasers: Mapping[str, Any],
    model: str | nn.Module,
    layer: str,
    readers: Sequence[tuple[str, int | None]] = READERS,
    **options: Any,
) -> Evaluation:
    """Measure on fresh images what erasers leave, each a ``state``; see :meth:`Eraser.evaluate`."""
    settings: dict[str, Any] = {"train_images": 256, "test_images": 256} | options
    settings.setdefault("targets", tuple(TARGETS))
    cautions: list[str] = []
    with one_layer(model, layer, **settings) as (setup, view, seen):
        for state, eraser in erasers.items():
            if eraser.record.get("sha256", setup.first.sha256) != setup.first.sha256:
                cautions.append(f"the eraser ({state}) was made of other weights than these")
        asked, source = setup.options, setup.stimuli
        train = source.batch("train", 0, asked.train_images)
        test = antithetic_batch(source, 0, asked.test_images, stride=setup.stride)
        numbers = scenes(source, asked.test_images)
        maps = [layer_features(setup, view, train)]
        maps.append(layer_features(setup, view, test, FIRST_TEST_IMAGE))
        states = {"before": maps}
        for state, eraser in erasers.items():
            clean = eraser.on("NCHW").to(maps[0].device)
            states[state] = [clean(part) for part in maps]
        tables = []
        for name, kernel in readers:
            spec = ReadoutSpec(name, kernel, False, asked.seed)  # type: ignore[arg-type]
            try:
                scored = [
                    _read(spec, seen, asked.targets, parts[0], parts[1], asked.seed)
                    for parts in states.values()
                ]
            except ProbeError as error:
                cautions.append(f"{spec.label} was left out: {error}")
                continue
            for state, part in zip(states, scored, strict=True):
                rows = score_rows(part, None, False, asked.seed, numbers)
                tables.append(rows.assign(kind="position", readout=spec.label, state=state))
        reduced = {state: [seen.reduce(m) for m in part] for state, part in states.items()}
        content = [content_maps(part.to(maps[0]), seen) for part in (train, test)]
    others: list[tuple[Any, ...]] = []
    for state, (learnt, new) in reduced.items():
        errors = content_errors(learnt, content[0], new, content[1])
        for target, (squares, blind) in errors.items():
            share, low, high = bootstrap_share(squares, blind, asked.seed, scenes=numbers)
            values = (1 - share, 1 - high, 1 - low)
            others.append(("content", "linear", target, "r2", state, *map(float, values)))
    for state in erasers:
        others += _changes(state, maps[1], states[state][1], asked.seed, numbers)
    table = pd.concat([*tables, pd.DataFrame(others, columns=COLUMNS)], ignore_index=True)[COLUMNS]
    if source.untested:
        cautions.append(source.untested)
    cautions += _ranks_alone(table)
    for message in cautions:
        warnings.warn(message, ProbeWarning, stacklevel=3)
    return Evaluation(table, cautions)


def _read(
    spec: ReadoutSpec, layer: Layer, targets: Sequence[str], train: Tensor, test: Tensor, seed: int
) -> Scored:
    """Fit a readout to training maps, and score it on every test map."""
    (seen,) = layers_seen(spec, [layer], layer.channels, control=False)
    truth = layer_truth(spec, targets, seen, seed, control=False)
    readout = spec.make()
    for fold, part in enumerate(torch.tensor_split(train, min(FOLDS, len(train)))):
        readout.partial_fit(seen.reduce(part), fold)
    wanted = truth.maps
    if readout.pixel_targets:
        height, width = layer.image_size
        wanted = layer_targets(truth.targets, layer.image_size, np.eye(height), np.eye(width))
    readout.solve(wanted)
    chance = readout.extra_chance(*truth.maps.shape[1:])
    batches = [readout.predict_and_score(seen.reduce(part)) for part in test.split(32)]
    predictions = torch.cat([values for values, _ in batches]).cpu().numpy()
    extra = {
        key: (torch.cat([scores[key] for _, scores in batches]).cpu().numpy(), level)
        for key, level in chance.items()
    }
    return score_layer(predictions, truth, extra)


def _ranks_alone(table: pd.DataFrame) -> list[str]:
    """Say where ranks tell more than a little after erasing, but R² tells nothing."""
    rows = table[(table["kind"] == "position") & (table["state"] != "before")]
    said = []
    for (state, readout), part in rows.groupby(["state", "readout"], sort=False):
        spc, r2 = (
            part[part["metric"] == metric].set_index("target")[["value", "low", "high"]]
            for metric in ("spc", "r2")
        )
        if not str(readout).startswith("ridge") or r2.empty:
            continue
        ranked = ((spc["low"] > _LITTLE) | (spc["high"] < -_LITTLE)) & (r2["low"] <= 0)
        cells = [
            f"{target} {interval(*spc.loc[target])}, R² {interval(*r2.loc[target])}"
            for target in spc.index[ranked]
        ]
        if cells:
            said.append(
                f"what {readout} finds after erasing ({state}) is of ranks alone, SPC of "
                f"{'; '.join(cells)}: over all images its predictions explain nothing of the "
                "target, but features that differ between places in spread or shape, not in their "
                "mean, still order the places of an image; no linear eraser takes that"
            )
    return said


def _changes(
    state: str, before: Tensor, after: Tensor, seed: int, numbers: Any
) -> list[tuple[Any, ...]]:
    """Share of variance kept and cosine to the original, with intervals."""
    spread = [
        ((m - m.mean((0, 2, 3), keepdim=True)) ** 2).double().sum((1, 2, 3)).cpu().numpy()
        for m in (after, before)
    ]
    kept = bootstrap_share(spread[0], spread[1], seed, scenes=numbers)
    alike = torch.cosine_similarity(before, after, 1).double().mean((1, 2)).cpu().numpy()
    cosine = alike.mean(), *bootstrap_interval(alike[:, None], seed, scenes=numbers)
    return [
        ("change", "", "features", name, state, *(float(np.squeeze(v)) for v in values))
        for name, values in (("variance kept", kept), ("cosine", cosine))
    ]
