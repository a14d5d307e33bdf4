"""The ladder: one network, the same readout, and three amounts of position, from 0 to 80 to 100.

Without a border a convolutional network has no position at all (0). Zero padding gives it away by
accident (80). CoordConv gives it outright (100).
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import pandas as pd
from matplotlib.figure import Figure
from torch import nn

from ...backbones.backbone import input_size
from ...backbones.forwarding import called_with
from ...coordconv.layers import CoordinateTerm
from ...errors import ProbeError
from ...files import json_bytes, parquet_bytes, reading, write_files
from ...records.record import COLUMNS as RESULT_COLUMNS
from ...runner.job import INPUT
from ...runner.options import Options, SharedGiven, takes_options
from ...runner.setup import Stopwatch, load_all, one_weights
from ...text import interval, number_text
from ..names import LADDER_TARGETS, STRENGTH
from ..run import run
from .coordinates import give_coordinates
from .page import page, plot_ladder
from .rungs import BORDERS, INSTANCE_COLUMNS, RUNGS, STEPS, with_rung

_OPTIONS = (
    *("layers", "targets", "train_images", "test_images", "image_size", "batch_size", "seed"),
)


@dataclass(frozen=True)
class Ladder:
    """What a ladder found.

    Attributes
    ----------
    table : DataFrame
        The tidy table of :class:`probe.Result`, with a column ``rung`` (of :data:`RUNGS`) first.
    instances : DataFrame or None
        Pairwise F1 of twin scenes by border, with columns :data:`INSTANCE_COLUMNS`, where that
        experiment has been run.
    provenance : dict
        Options, weights, how coordinates were given, versions.
    """

    table: pd.DataFrame
    instances: pd.DataFrame | None
    provenance: dict[str, Any]

    @property
    def layers(self) -> list[str]:
        """Names of the layers, in order."""
        return [name for name in dict.fromkeys(self.table["layer"]) if name != INPUT]

    @property
    def heights(self) -> pd.DataFrame:
        """SPC averaged over the targets: one row per layer, one column per rung."""
        spc = self.table[(self.table["metric"] == "spc") & (self.table["layer"] != INPUT)]
        wide = spc.pivot_table("value", "layer", "rung", sort=False)
        return wide[[rung for rung in RUNGS if rung in wide]]

    def summary(self) -> list[str]:
        """Say it in sentences."""
        heights, name = self.heights, self.provenance["name"]
        top = str(heights["as trained"].idxmax())
        zero, eighty, hundred = (heights.loc[top, rung] for rung in STEPS)
        targets = ", ".join(self.provenance["options"]["targets"])
        sentences = [
            f"{name}, {top}, the layer that knows most: SPC {number_text(zero)} without a border, "
            f"{number_text(eighty)} as trained, {number_text(hundred)} with coordinates "
            f"(mean over {targets}).",
            f"Over all {len(heights)} layers: "
            + ", ".join(f"{number_text(heights[rung].mean())} {with_rung(rung)}" for rung in STEPS)
            + ".",
            "Coordinates alone, without a border, give "
            f"{number_text(heights['coordinates, no border'].mean())} over all layers.",
            self.provenance["how"],
        ]
        if not self.provenance.get("pads", True):
            sentences.append(
                f"Caution: nothing in {name} pads, so that its first rung takes nothing away."
            )
        if not self.provenance["certified"]:
            sentences.append(
                f"Caution: without a border {name} is not certified to be without position: "
                f"{self.provenance['reason']}. The first rung is not a zero by construction."
            )
        if self.instances is not None:
            scores = self.instances.set_index("border")
            by_border = ", ".join(
                f"{interval(*scores.loc[b, ['value', 'low', 'high']])} {words}"
                for b, words in BORDERS.items()
                if b in scores.index
            )
            sentences.append(
                f"The same rungs for telling copies of an object apart (twin scenes): pairwise F1 "
                f"{by_border}; chance is {number_text(float(scores['chance'].iloc[0]))}."
            )
        return sentences

    def plot(self) -> Figure:
        """Draw SPC by depth on each rung, a panel for each target, and the instance rungs."""
        return plot_ladder(self.table, self.instances)

    def to_html(self, path: str | Path) -> Path:
        """Write a page that needs nothing else: figure, table, and how it was measured."""
        path = Path(path)
        text = page(self.table, self.instances, self.provenance, self.summary())
        write_files(path.parent, {path.name: text.encode()})
        return path

    def save(self, folder: str | Path) -> Path:
        """Write ``ladder.csv``, ``ladder.parquet``, ``ladder.json`` and ``ladder.png``."""
        picture = io.BytesIO()
        self.plot().savefig(picture, dpi=150)
        about = {**self.provenance, "instances": None}
        if self.instances is not None:
            about["instances"] = self.instances.to_dict("records")
        files = {
            "ladder.csv": self.table.to_csv(index=False).encode(),
            "ladder.parquet": parquet_bytes(self.table),
            "ladder.json": json_bytes(about),
            "ladder.png": picture.getvalue(),
        }
        write_files(Path(folder), files)
        return Path(folder)


def load_ladder(folder: str | Path) -> Ladder:
    """Read what :meth:`Ladder.save` wrote."""
    folder = Path(folder)
    with reading(folder, "ladder"):
        provenance = json.loads((folder / "ladder.json").read_text(encoding="utf-8"))
        table = pd.read_parquet(folder / "ladder.parquet")
        table["rung"] = table["rung"].replace("zero padding", "as trained")  # before 0.5
        rows = provenance.pop("instances")
        instances = None if rows is None else pd.DataFrame(rows)[INSTANCE_COLUMNS]
        if instances is not None:
            instances = instances.astype(dict.fromkeys(INSTANCE_COLUMNS[1:], float))
        return Ladder(table[["rung", *RESULT_COLUMNS]], instances, provenance)


@takes_options(
    *_OPTIONS,
    *("device", "progress", "name", "mean", "std", "forward_kwargs"),
    targets=LADDER_TARGETS,
    train_images=256,
)
def ladder(
    model: str | nn.Module,
    weights: str | Path = "pretrained",
    *,
    at: str | Sequence[str] = "convs",
    strength: float = STRENGTH,
    instances: pd.DataFrame | None = None,
    **options: Unpack[SharedGiven],
) -> Ladder:
    r"""Probe one network on three rungs: no border, as trained, coordinates given.

    The same ridge readout, the same layers and the same images (leaves) each time. Without a
    border is circular padding on the torus; as trained is with its own padding; coordinates are
    given by inflating convolutions to CoordConv (:func:`probe.coordconv.inflate`) and setting
    the weights of the coordinates.

    These weights are not trained. At the centre of each kernel, channel :math:`c` gets

    .. math:: \frac{s\, σ_c}{τ_c} (\cos θ_c, \sin θ_c)

    for row and column, with :math:`θ_c` uniform, :math:`σ_c` the standard deviation of that
    channel of the convolution's output over leaves in the network as trained, and :math:`τ_c`
    that of the coordinates' part with the weights :math:`(\cos θ_c, \sin θ_c)`: the coordinates'
    part of each channel has :math:`s` times the channel's own deviation. With every convolution
    inflated, position reaches every layer, however many the network has; with ``at="stem"`` one
    sees how far it gets by itself. What readouts then find is what the layers can carry if
    position is given, not what a network trained with coordinates would keep.

    Parameters
    ----------
    model : str or Module
        As for :func:`probe.run`.
    weights : str
        One of those of :func:`probe.run`.
    at : str or sequence of str
        Which convolutions get coordinates, see :func:`probe.coordconv.inflate`.
    strength : float
        :math:`s` above, greater than 0.
    instances : DataFrame, optional
        Rungs of the instance experiment, see
        :func:`probe.analyses.ladder.rungs.instance_rungs`.
    {options}

    Returns
    -------
    Ladder

    Raises
    ------
    ProbeError
        As :func:`probe.run` and :func:`probe.coordconv.inflate`, or if ``strength`` is not
        positive.

    References
    ----------
    Liu et al. (2018), arXiv 1807.03247, for CoordConv; Islam et al. (2020), arXiv 2001.08248, for
    position from zero padding.

    Examples
    --------
    >>> probe.ladder("tf_efficientnet_lite0").heights
    """
    clock = Stopwatch()
    if not (isinstance(strength, int | float) and 0 < strength < math.inf):
        raise ProbeError(f"strength: expected a number greater than 0, got {strength!r}")
    variants = ("original", "circular")
    chosen = Options.of(options, weights=one_weights(model, weights), variants=variants)
    (backbone,), stride = load_all(model, chosen)
    size = chosen.image_size or input_size(backbone.config, stride)
    shared = {name: getattr(chosen, name) for name in (*_OPTIONS, "progress", "forward_kwargs")}
    shared |= {name: getattr(backbone, name) for name in ("name", "mean", "std")}
    shared["image_size"] = size
    plain = run(backbone.model, variants=variants, **shared)
    with called_with(backbone.model, chosen.forward_kwargs):
        given = give_coordinates(backbone, size, at, strength, chosen.seed)
    coordinated = run(given, variants=variants, **shared)
    rows = []
    for rung, (with_coordinates, variant) in RUNGS.items():
        scores = (coordinated if with_coordinates else plain).table
        rows.append(scores[scores["variant"] == variant].assign(rung=rung))
    table = pd.concat(rows, ignore_index=True).assign(weights=backbone.weights)
    inflated = [
        name
        for name, module in given.named_modules()
        if isinstance(module, CoordinateTerm) and bool(module.coord_weight.any())
    ]
    where = "every convolution over a map" if at == "convs" else f"{len(inflated)} convolutions"
    where = f"{inflated[0]} alone" if len(inflated) == 1 else where
    certificate = plain.certificates["given", "circular"]
    about = {key: plain.provenance["options"][key] for key in _OPTIONS}
    about |= {"at": at if isinstance(at, str) else list(at), "strength": strength}
    provenance = {
        **{key: getattr(backbone, key) for key in ("name", "weights", "source", "sha256")},
        "options": about,
        "inflated": inflated,
        "how": f"Coordinates are given to {where}: random directions at the kernel's centre, with "
        f"a standard deviation of {strength:g} of the channel's own; they are not trained.",
        "pads": plain.pads,
        "certified": certificate.passed,
        "residual": certificate.residual,
        "reason": certificate.reason,
        **{key: plain.provenance[key] for key in ("device", "versions")},
        **clock.times(),
    }
    return Ladder(table[["rung", *RESULT_COLUMNS]], instances, provenance)
