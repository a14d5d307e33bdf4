"""The main job: one backbone, every weights × variant × layer × target, in two passes."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping
from itertools import chain
from typing import Any, Unpack

import numpy as np
import pandas as pd
from torch import nn
from tqdm.auto import tqdm

from ..certificates.certificate import Certificate
from ..certificates.prepare import prepare
from ..errors import ProbeWarning
from ..records.record import (
    COLUMNS,
    PADDING_SHARE,
    PROFILE_COLUMNS,
    SCORE_KEYS,
    SHARE,
    MapKey,
    PatternKey,
)
from ..results import Result
from ..runner.job import INPUT, Condition, Job, check_room, groups_that_fit
from ..runner.options import Options, OptionsGiven, takes_options
from ..runner.passes import fit, score, test, train
from ..runner.precision import precision_record, refine
from ..runner.proven import fill_with_chance, proven
from ..runner.rows import (
    alpha_rows,
    condition_rows,
    find_cautions,
    find_patterns,
    kept_readouts,
    mean_maps,
    per_image_rows,
    profile_tables,
    simultaneous_rows,
)
from ..runner.setup import Opened, opened, weights_record
from ..scores.patterns import Pattern
from ..scores.tables import joined
from ..targets import given_maps
from ..variants.kinds import PADDING
from ..variants.removing import shift_of
from ..variants.variant import parse_variant


@takes_options(
    *("weights", "variants", "layers", "targets", "stimuli", "train_images", "test_images"),
    *("precision", "image_size", "batch_size", "readout", "seed", "device", "progress"),
    *("kernel", "concat", "margin", "name", "mean", "std", "forward_kwargs"),
)
def run(model: str | nn.Module, **options: Unpack[OptionsGiven]) -> Result:
    """Measure how much absolute position each layer of a backbone encodes.

    Images stream once through every weights × variant; each layer's features are reduced to
    position moments at once, from which a readout is fitted for every target. A second, smaller
    set of images scores the readouts. A certificate measures for each weights × variant whether
    the network is translation equivariant, so that it has no position to give.
    Where it passes for random draws and for other weights that are run, on stimuli without a place
    of their own, the draws are not run: their scores are given as chance, and ``provenance`` names
    them under ``proven``.

    Every result has its controls: the same readout on the ``input``, random weights, and the
    control task (targets with their places permuted).

    The model comes back as it was: hooks, train/eval modes, weights and random generators.

    Parameters
    ----------
    model : str or Module
        A timm name, or any module that maps images (B, C, H, W).
    {options}

    Returns
    -------
    Result

    Raises
    ------
    ProbeError
        If something asked for does not exist, can't be had or doesn't fit, or if a layer's
        features are not finite; one sentence says what and what to do.

    Examples
    --------
    >>> result = probe.run("tf_efficientnet_lite0", layers=["blocks.3", "blocks.5"])
    >>> result.table.query("metric == 'spc' and target == 'vertical'")
    """
    asked = Options.of(options)
    with opened(model, asked) as setup:
        job = setup.job()
        conditions = [
            setup.condition(job, backbone, variant)
            for backbone in setup.backbones
            for variant in setup.variants
        ]
        for condition, trained in _with_trained(conditions):
            condition.trained = trained
            check_room(job, condition)
        cautions = find_cautions(job, conditions)
        for message in cautions:
            warnings.warn(message, ProbeWarning, stacklevel=3)
        with setup.bar(len(conditions), setup.first.name) as bar:
            bar.set_postfix_str("certificates")
            certificates = _certificates(setup)
            zeros = proven(job, conditions, certificates)
            measured = [c for c in conditions if c.key not in zeros]
            bar.total = (job.train_images + job.test_images) * len(measured)
            profiles, maps, patterns = _measure(job, measured, bar)
            if asked.precision is not None:
                job = refine(job, measured, asked.precision, bar)
        for condition in conditions:
            if condition.key in zeros:
                fill_with_chance(job, condition, zeros[condition.key])
                profiles.extend(profile_tables(job, condition))
                maps.update(mean_maps(condition))
                condition.predictions.clear()
    picture = setup.stimuli.picture(min(4, job.train_images))
    for message in setup.stimuli.cautions:  # known once the images were read
        cautions.append(message)
        warnings.warn(message, ProbeWarning, stacklevel=3)
    provenance = setup.origin() | {
        "options": setup.recorded(
            *("model", "weights", "variants", "layers", "targets", "stimuli", "train_images"),
            *("test_images", "precision", "image_size", "batch_size", "readout", "kernel"),
            *("concat", "seed", "device", "margin", "name", "mean", "std", "forward_kwargs"),
        )
        | {"test_images": job.test_images},
        "asked": asked.fingerprint(),
        "readout": job.head.record(),
        "backbones": [weights_record(backbone) for backbone in setup.backbones],
        "insets": {
            c.view.variant.name: {layer.name: list(layer.inset) for layer in c.layers}
            for c in conditions
            if any(any(layer.inset) for layer in c.layers)
        },
        "alphas": [row for condition in conditions for row in alpha_rows(condition)],
        "shifts": {
            c.view.variant.name: {"places": list(grid), "by": list(shift_of(grid, job.seed))}
            for c in conditions
            if (grid := c.view.shifted)
        },
        "proven": [list(c.key) for c in conditions if c.key in zeros],
    }
    if asked.precision is not None:
        reached = precision_record(job, measured, asked.precision)
        provenance["precision"] = reached
        if not reached["met"]:
            cautions.append(_imprecise(reached))
            warnings.warn(cautions[-1], ProbeWarning, stacklevel=3)
    provenance["warnings"] = setup.cautions + cautions
    tables = [condition_rows(job, c, trained) for c, trained in _with_trained(conditions)]
    common = {"model": setup.first.name, "stimuli": setup.stimuli.name, "readout": job.head.label}
    table = joined(tables, **common)
    table = table.merge(simultaneous_rows(job, conditions), "left", SCORE_KEYS)
    table = _with_shares(table, certificates)[COLUMNS]
    profile = pd.DataFrame(columns=PROFILE_COLUMNS)
    if profiles:
        profile = joined(profiles, **common)[PROFILE_COLUMNS]
    return Result(
        *(table, maps, certificates, provenance, profile, patterns),
        picture=picture,
        per_image=per_image_rows(job, measured),
        readouts=dict(chain.from_iterable(map(kept_readouts, conditions))),
        given_maps=given_maps(asked.targets, setup.size),
    )


def _with_shares(
    table: pd.DataFrame, certificates: Mapping[tuple[str, str], Certificate]
) -> pd.DataFrame:
    """Shares of what the network has, and those of padding where it alone is taken away."""
    has = {source.partition(":")[0] for c in certificates.values() for source in c.sources}
    taken = {name: parse_variant(name).removed_kinds & has for _, name in certificates}
    kinds = table["variant"].map(taken)
    table[SHARE] = table[SHARE].where(kinds.map(bool))
    table[PADDING_SHARE] = table[SHARE].where(kinds.map({PADDING}.__eq__))
    return table


def _certificates(setup: Opened) -> dict[tuple[str, str], Certificate]:
    """Certify every weights × variant."""
    certificates = {}
    for backbone in setup.backbones:
        target = prepare(
            backbone, layers=setup.probed, image_size=setup.size, seed=setup.options.seed
        )
        for variant in setup.variants:
            certificate = target.certify(variant, setup.margin or None)
            certificates[backbone.weights, variant.name] = certificate
    return certificates


def _imprecise(reached: dict[str, Any]) -> str:
    return (
        f"precision {reached['asked']:g} was not reached: after {reached['steps'][-1]} test images "
        f"the widest interval is {reached['reached']:.3f} wide, of {reached['widest']}; the "
        "stimuli have no more, or it takes more than a run adds"
    )


def _with_trained(conditions: list[Condition]) -> list[tuple[Condition, Condition | None]]:
    """Each condition with the network of the same weights as trained, unless it is that."""
    as_trained = {c.backbone.weights: c for c in conditions if c.view.variant.name == "original"}
    pairs = [(c, as_trained.get(c.backbone.weights)) for c in conditions]
    return [(c, None if trained is c else trained) for c, trained in pairs]


_Measured = tuple[
    list[pd.DataFrame],
    dict[MapKey, np.ndarray[Any, Any]],
    dict[PatternKey, Pattern],
]


def _measure(job: Job, conditions: list[Condition], bar: tqdm) -> _Measured:
    """Run both passes; return profiles, mean maps and patterns.

    Conditions come weights by weights. A variant is paired with the network as trained, so that
    sums of the same weights are kept until all have theirs.
    """
    variants = Counter(condition.backbone.weights for condition in conditions)
    profiles: list[pd.DataFrame] = []
    maps: dict[MapKey, np.ndarray[Any, Any]] = {}
    patterns: dict[PatternKey, Pattern] = {}
    waiting: list[Condition] = []
    for group in groups_that_fit(job, conditions):
        train(job, group, bar)
        for condition in group:
            fit(job, condition)
        test(job, group, bar)
        for condition in group:
            score(condition)
            profiles.extend(profile_tables(job, condition))
            maps.update(mean_maps(condition))
            condition.pixels = condition.predictions.get(INPUT, [])
            condition.predictions.clear()
        waiting += group
        while waiting and len(waiting) >= (count := variants[waiting[0].backbone.weights]):
            together, waiting = waiting[:count], waiting[count:]
            for condition, trained in _with_trained(together):
                patterns.update(find_patterns(condition, trained))
            for condition in together:
                condition.sums.clear()
    return profiles, maps, patterns
