"""The plain data of a run: table, maps, certificates, profile, patterns, provenance."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..backbones.layer import GridLayer, Layer
from ..certificates.certificate import NOTHING_PADS, Certificate
from ..errors import ProbeError
from ..readouts.base import Readout
from ..readouts.spec import readout_record
from ..scores.patterns import Pattern
from ..targets import given_target, layer_targets, recorded_target
from ..variants.kinds import PADDING
from ..variants.variant import parse_variant
from .calibration import Calibration
from .erasure import ErasureRecord

PADDING_SHARE = ["padding_share", "padding_share_low", "padding_share_high"]
SHARE = ["share", "share_low", "share_high"]
"""Columns of what part of a score went with what a variant took away."""

COLUMNS = [
    *("model", "weights", "variant", "stimuli", "readout"),
    *("layer", "depth", "channels", "height", "width", "target"),
    *("metric", "value", "low", "high", "chance"),
    *("difference", "difference_low", "difference_high"),
    *PADDING_SHARE,
    *("simultaneous_low", "simultaneous_high"),
    *SHARE,
]
"""Columns of a result's table."""

SCORE_KEYS = ["weights", "variant", "layer", "target", "metric"]
"""Columns that tell the rows of a table apart."""

SIMULTANEOUS = ("simultaneous_low", "simultaneous_high")
"""Bounds that hold for all layers and targets of a metric at once."""

PROFILE_COLUMNS = [
    *("model", "weights", "variant", "stimuli", "readout", "layer", "depth", "target"),
    *("distance", "places", "error", "low", "high", "chance"),
]
"""Columns of a result's profile."""

PER_IMAGE_COLUMNS = [*SCORE_KEYS, "image", "scene", "value"]
"""Columns of a result's scores by image."""

Condition = tuple[str, str]
"""Weights and variant."""

MapKey = tuple[str, str, str, str]
"""Weights, variant, layer and target."""

PatternKey = tuple[str, str, str]
"""Weights, variant and layer."""


@dataclass(frozen=True, eq=False, repr=False)
class Record:
    """What a run found out about one backbone, as plain data.

    Attributes
    ----------
    table : DataFrame
        Tidy: one row per score, with columns :data:`COLUMNS`. ``metric`` is ``spc``, ``mae`` or
        ``r2``; ``control``, the SPC of the same readout on the control task, and ``selectivity``,
        SPC less control; for the target ``position``, ``error_px``, the median distance in pixels
        of the input between predicted and true place; for ``cells``, ``top1``; of position
        embeddings that are shifted, ``follows`` and ``stays``, the SPC of the readout of the
        network as trained for the target shifted likewise, and for the target in its place.
        ``value`` is the
        mean over test images, ``low`` and ``high`` bound its 95 % bootstrap interval, ``chance`` is
        the score of a constant predictor (the target's mean). ``difference`` is the value of the
        network as trained less this one, paired over images; ``share`` what part that is of what
        the network as trained has beyond chance, where the variant took sources of position away,
        see :func:`probe.scores.score_rows`, and ``padding_share`` the same where of the sources
        that the network has padding alone was taken away.
        ``simultaneous_low`` and ``simultaneous_high`` bound all rows of one metric, variant and
        kind of weights at once, see :func:`probe.scores.simultaneous_interval`: take them when
        picking the best of many. ``depth`` counts the probed layers in order of execution; the
        layer ``input``, of depth 0, is the pixels themselves.
    maps : dict
        Mean predicted map over test images, float32 of shape (h, w) with at most 28 places each
        way, by (weights, variant, layer, target).
    certificates : dict
        :class:`~probe.certificates.Certificate` by (weights, variant).
    provenance : dict
        Options, versions, origin and SHA-256 of the weights, regularisation, cautions, times.
    profile : DataFrame
        Tidy, with columns :data:`PROFILE_COLUMNS`: the mean absolute error of a readout over the
        places at a ``distance`` in pixels from the nearest border.
    pattern : dict
        :class:`~probe.scores.Pattern` by (weights, variant, layer): mean maps of the channels,
        how much of each channel's variance is position's, and the layer's signal-to-noise ratio.
    attribution : DataFrame or None
        What ``probe attribute`` found out about the same model, see :func:`probe.attribute`.
    calibration : Calibration or None
        What ``probe calibrate`` measured on the same model and readout, see
        :func:`probe.calibrate`.
    planted : DataFrame or None
        Planted truth that ``probe calibrate`` recovered, see
        :func:`probe.analyses.planted.planted_truth`.
    erasure : ErasureRecord or None
        What ``probe erase`` measured at one layer of the same weights, see :func:`probe.erasure`.
    picture : ndarray of uint8, shape (h, w, 4), or None
        The first train images beside each other, see :meth:`probe.stimuli.Stimuli.picture`.
    per_image : DataFrame
        Tidy, with columns :data:`PER_IMAGE_COLUMNS`: every score of every test image, whose mean
        over ``image`` is the table's ``value``. Images of one ``scene`` are shifted copies.
    readouts : dict
        The fitted :class:`~probe.readouts.Readout` by (weights, variant, layer); its ``predict``
        takes features (B, C, h, w) as :func:`probe.features` returns them, and returns maps
        (B, targets, h, w). A linear one has its weights in ``map``.
    given_maps : dict
        Targets of one's own: their maps over the image, float64 of shape (H, W), by name.
    """

    table: pd.DataFrame
    maps: dict[MapKey, NDArray[np.float32]]
    certificates: dict[Condition, Certificate]
    provenance: dict[str, Any]
    profile: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=PROFILE_COLUMNS))
    pattern: dict[PatternKey, Pattern] = field(default_factory=dict)
    attribution: pd.DataFrame | None = None
    calibration: Calibration | None = None
    planted: pd.DataFrame | None = None
    erasure: ErasureRecord | None = None
    picture: NDArray[np.uint8] | None = None
    per_image: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=PER_IMAGE_COLUMNS))
    readouts: dict[PatternKey, Readout] = field(default_factory=dict)
    given_maps: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} of {self.model}: {len(self.layers)} layers, "
            f"{len(self.conditions)} conditions, {len(self.targets)} targets>"
        )

    @property
    def model(self) -> str:
        """Name of the backbone."""
        return str(self.provenance["name"])

    @property
    def layers(self) -> list[str]:
        """Names of the probed layers in order of execution."""
        return list(dict.fromkeys(self.table.sort_values("depth", kind="stable")["layer"]))

    @property
    def targets(self) -> list[str]:
        """Names of the targets."""
        return list(self.provenance["options"]["targets"])

    @property
    def conditions(self) -> list[Condition]:
        """Every (weights, variant) of the run, in the order asked for."""
        return list(self.certificates)

    @property
    def pads(self) -> bool:
        """Whether some operation of the network pads, as far as its certificates tell."""
        kept = [
            certificate.sources
            for (_, variant), certificate in self.certificates.items()
            if not parse_variant(variant).removes_padding
        ]
        if kept:
            return any(source.startswith(f"{PADDING}:") for source in chain(*kept))
        return not any(NOTHING_PADS in c.reason for c in self.certificates.values())

    @property
    def differences(self) -> pd.DataFrame:
        """The network as trained less each variant: rows of the table that have a difference.

        Columns ``original`` (value as trained), ``value`` (of the variant), ``difference`` with
        ``low`` and ``high``, paired over the same test images, ``share`` with ``share_low``
        and ``share_high`` where it is defined, and ``padding_share``.
        """
        rows = self.table[self.table["difference"].notna()].drop(columns=["low", "high", "chance"])
        rows = rows.rename(columns={"difference_low": "low", "difference_high": "high"})
        place = list(rows.columns).index("value")
        rows.insert(place, "original", rows["value"] + rows["difference"])
        return rows.reset_index(drop=True)

    @property
    def channels(self) -> pd.DataFrame:
        """Every channel of every layer, with the share of its variance that position explains.

        Columns ``weights``, ``variant``, ``layer``, ``channel``, ``eta2`` and ``snr`` (of the whole
        layer); sort by ``eta2`` for the most position-tuned ones.
        """
        rows = [
            pd.DataFrame({"channel": np.arange(len(p.eta2)), "eta2": p.eta2, "snr": p.snr}).assign(
                weights=weights, variant=variant, layer=layer
            )
            for (weights, variant, layer), p in self.pattern.items()
        ]
        columns = ["weights", "variant", "layer", "channel", "eta2", "snr"]
        if not rows:
            return pd.DataFrame(columns=columns)
        return pd.concat(rows, ignore_index=True)[columns]

    def true_map(self, layer: str, target: str, variant: str | None = None) -> NDArray[np.float64]:
        """Return the target that a layer's readout was fitted to, shape (h, w), in [0, 1].

        Parameters
        ----------
        layer, target : str
            Which.
        variant : str, optional
            Under ``valid`` and a few others layers are of another size; the first by default.

        Raises
        ------
        ProbeError
            If the layer was not probed or there is no such target.
        """
        variant = variant or self.conditions[0][1]
        rows = self.table[(self.table["layer"] == layer) & (self.table["variant"] == variant)]
        if rows.empty:
            raise ProbeError(
                f"layer {layer!r} was not probed: expected one of {', '.join(self.layers)}"
            )
        row, options = rows.iloc[0], self.provenance["options"]
        size = tuple(options["image_size"])
        inset = self.provenance.get("insets", {}).get(variant, {}).get(layer, (0.0, 0.0))
        shape = (int(row["height"]), int(row["width"]))
        readout = readout_record(self.provenance)
        kind = GridLayer if readout["gridded"] else Layer
        seen = kind(layer, 1, 1, *shape, "NCHW", 0, size, tuple(inset))
        if target in self.given_maps:
            known = given_target(target, self.given_maps[target])
        else:
            known = recorded_target(target, self.provenance.get("maps"))
        return layer_targets([known], size, *seen.windows(readout["kernel"]))[0]

    def command(self) -> str:
        """Return the command that repeats the run; for a module, the call."""
        return _command(self.provenance)


def _command(provenance: Mapping[str, Any]) -> str:
    options = dict(provenance["options"])
    own = {
        k: v
        for k in ("name", "mean", "std", "forward_kwargs")
        if (v := options.pop(k, None)) is not None
    }
    if "precision" in provenance:  # it began with these
        options["test_images"] = provenance["precision"]["steps"][0]
    for key in ("margin", "kernel", "precision"):
        if options.get(key) is None:
            options.pop(key, None)
    given = [*provenance.get("given", []), *(["stimuli"] * (not provenance["named_stimuli"]))]
    if provenance["module"] or own or given:
        call = {
            "weights": options["weights"],
            **own,
            **{k: v for k, v in options.items() if k not in ("model", "weights")},
        }
        model = repr(options["model"])
        if provenance["module"]:
            model = "module"
            if list(call["weights"]) == ["given"]:
                del call["weights"]
        words = [f"{k}={k}" if k in given else f"{k}={v!r}" for k, v in call.items()]
        return f"probe.run({', '.join([model, *words])})"
    words = ["probe", "run", options["model"]]
    for key, value in options.items():
        if key == "model":
            continue
        values = value if isinstance(value, list) else [value]
        flag = f"--{key.replace('_', '-')}"
        if key == "image_size":
            words += [flag, "x".join(map(str, dict.fromkeys(values)))]
        elif isinstance(value, bool):
            words.append(flag if value else f"--no-{flag[2:]}")
        else:
            words += [flag, ",".join(map(str, values))]
    return shlex.join(words)
