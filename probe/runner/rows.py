"""From finished conditions to tables, profiles, maps and cautions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..readouts.base import Readout
from ..records.record import PER_IMAGE_COLUMNS, SCORE_KEYS, SIMULTANEOUS, MapKey, PatternKey
from ..scores.intervals import simultaneous_interval
from ..scores.patterns import Pattern, find_pattern
from ..scores.tables import joined, profile_rows, score_rows, within_range
from ..stimuli.scenes import scene_size
from ..text import is_random
from .follow import follow_rows
from .job import INPUT, Condition, Job


def condition_rows(job: Job, condition: Condition, original: Condition | None) -> pd.DataFrame:
    """One row for each layer, target and metric."""
    removes = bool(condition.view.variant.removed_kinds)
    weights, variant = condition.key
    placed = _placed(job, condition)
    if not placed:  # nothing tells whether they lie over the same part of the image
        original = None
    tables = []
    for layer in condition.layers:
        scored = condition.scored[layer.name]
        trained = original.scored[layer.name] if original else None
        rows = score_rows(scored, trained, removes, job.seed, job.scenes)
        if layer.name in condition.followed:
            rows = joined([rows, follow_rows(job, condition, layer)])
        shape = {"channels": layer.channels, "height": layer.height, "width": layer.width}
        tables.append(rows.assign(layer=layer.name, depth=layer.depth, **shape))
    table = joined(tables, weights=weights, variant=variant)
    return table if placed else table[table["metric"] != "error_px"]


def simultaneous_rows(job: Job, conditions: Sequence[Condition]) -> pd.DataFrame:
    """Intervals that hold at once over all layers and targets of one metric.

    A family is all rows of one metric under one variant and the same kind of weights, random draws
    taken together: what a sentence picks the best of. The pixels are families of their own.
    """
    families: dict[tuple[Any, ...], list[tuple[tuple[str, ...], np.ndarray]]] = {}
    for condition in conditions:
        weights, variant = condition.key
        for layer, scored in condition.scored.items():
            for (target, metric), values in zip(scored.columns, scored.values.T, strict=True):
                kind = "random" if is_random(weights) else weights
                family = families.setdefault((kind, variant, metric, layer == INPUT), [])
                family.append(((weights, variant, layer, target, metric), values))
    tables = []
    for members in families.values():
        keys, values = zip(*members, strict=True)
        bounds = simultaneous_interval(np.stack(values, 1), job.seed, scenes=job.scenes)
        bounds = within_range([key[-1] for key in keys], *bounds)
        table = pd.DataFrame(keys, columns=SCORE_KEYS)
        tables.append(table.assign(**dict(zip(SIMULTANEOUS, bounds, strict=True))))
    return joined(tables)


def per_image_rows(job: Job, conditions: Sequence[Condition]) -> pd.DataFrame:
    """One row for each score of each test image, with columns :data:`PER_IMAGE_COLUMNS`."""
    tables = []
    scenes = np.unique(job.scenes, return_inverse=True)[1]
    for condition in conditions:
        weights, variant = condition.key
        for layer, scored in condition.scored.items():
            kept = [m != "error_px" or _placed(job, condition) for _, m in scored.columns]
            names = [column for column, k in zip(scored.columns, kept, strict=True) if k]
            values = scored.values[:, kept]
            targets, metrics = (list(words) for words in zip(*names, strict=True))
            count = len(values)
            table: dict[str, Any] = {"weights": weights, "variant": variant, "layer": layer}
            table |= {"target": targets * count, "metric": metrics * count}
            table |= {"image": np.repeat(np.arange(count), len(names))}
            table |= {"scene": np.repeat(scenes, len(names)), "value": values.ravel()}
            tables.append(pd.DataFrame(table))
    return joined(tables)[PER_IMAGE_COLUMNS].astype(dict.fromkeys(SCORE_KEYS, "category"))


def kept_readouts(condition: Condition) -> Iterator[tuple[PatternKey, Readout]]:
    """The fitted readout of each layer, for the targets alone."""
    for layer, readout in condition.readouts.items():
        yield (*condition.key, layer), readout.kept(len(condition.truths[layer].targets))


def _placed(job: Job, condition: Condition) -> bool:
    """Whether pixel positions of the readout's outputs are known.

    As published, layers on a common grid are taken to cover the whole image, also where the
    variant has left only the middle of them.
    """
    return not (job.head.gridded and any(any(layer.inset) for layer in condition.view.layers))


def profile_tables(job: Job, condition: Condition) -> Iterator[pd.DataFrame]:
    """Error by distance to the border, for each layer and target, where it is known."""
    weights, variant = condition.key
    if not _placed(job, condition):
        return
    tables = [
        profile_rows(
            np.concatenate(condition.predictions[layer.name]),
            condition.truths[layer.name],
            job.seed,
            job.scenes,
        ).assign(layer=layer.name, depth=layer.depth)
        for layer in condition.layers
    ]
    yield joined(tables, weights=weights, variant=variant)


def find_patterns(
    condition: Condition, original: Condition | None
) -> Iterator[tuple[PatternKey, Pattern]]:
    """What the features of each layer are on average, place by place."""
    for layer in condition.layers:
        apart = original.sums[layer.name] if original else None
        pattern = find_pattern(condition.sums[layer.name], layer.places, apart)
        yield (*condition.key, layer.name), pattern


def mean_maps(condition: Condition) -> Iterator[tuple[MapKey, np.ndarray]]:
    """The mean prediction over test images of each layer and target."""
    for layer in condition.layers:
        targets = condition.truths[layer.name].targets
        mean = np.concatenate(condition.predictions[layer.name]).mean(0).astype(np.float32)
        for target, values in zip(targets, mean[: len(targets)], strict=True):
            yield (*condition.key, layer.name, target), values


def alpha_rows(condition: Condition) -> Iterator[dict[str, Any]]:
    weights, variant = condition.key
    for layer, chosen in condition.alphas.items():
        for target, alpha in zip(condition.truths[layer].targets, chosen, strict=True):
            yield {
                "weights": weights,
                "variant": variant,
                "layer": layer,
                "target": target,
                "alpha": alpha,
            }


SEAM = (
    "so that the circular variant can show position that padding never made; use the variant "
    "canvas, or tileable stimuli such as leaves"
)
"""What follows for a run from images that do not tile, and what to do."""


def find_cautions(job: Job, conditions: Sequence[Condition], seam: str = SEAM) -> list[str]:
    """What a reader of the result should know before reading it."""
    cautions = []
    source, size = job.source, job.source.image_size
    circular = any(c.view.variant.rule == "circular" for c in conditions)
    if circular and not source.tileable:
        cautions.append(
            f"circular padding on stimuli that do not tile ({source.name}): the seam where "
            f"opposite borders meet is itself a landmark, {seam}"
        )
    if circular and any(pixels % job.stride for pixels in size):
        cautions.append(
            f"images of {size[0]} × {size[1]} pixels are no multiple of the network's stride "
            f"of {job.stride}: the torus of some layer does not close, and circular padding "
            "leaves position behind"
        )
    if source.untested:
        cautions.append(
            f"{source.untested} ({source.name}): the scores say what readouts can be fitted to, "
            "and are no test of what a layer knows on other images"
        )
    elif job.test_images == 1:
        cautions.append("one test image gives no interval: low and high are NaN")
    elif len(set(job.scenes)) == 1:
        cautions.append(
            f"the {job.test_images} test images show one scene, which gives no interval: low and "
            f"high are NaN; take "
            + ("more photographs" if scene_size(source) == 1 else "more than four test images")
        )
    for layer, truth in conditions[0].truths.items():
        flat = [t for t, m in zip(truth.targets, truth.maps, strict=True) if np.ptp(m) < 1e-9]
        if flat:
            cautions.append(
                f"at {layer} the target {', '.join(flat)} is the same at every place: its scores "
                "there are 0 by definition; choose a larger image size"
            )
    return cautions
