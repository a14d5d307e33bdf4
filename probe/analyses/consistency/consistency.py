r"""Consistency under shifts below the stride: where aliasing starts.

On a torus an equivariant layer of stride :math:`S` follows an image that moves by whole multiples
of :math:`S`; certificates prove that. In between it can only follow approximately: a map that is
sampled too coarsely changes its values (aliasing; Zhang 2019, arXiv 1904.11486). For an image
:math:`x` moved by :math:`s` pixels down and to the right, :math:`T_s x`,

.. math::
    r(s) = \min_{k} \frac{\lVert f(T_s x) − T_k f(x) \rVert_2}{\lVert f(x) \rVert_2},

where :math:`k` is :math:`s / S` places, moved by the shift theorem of the Fourier transform, or a
whole number of them, :math:`\lfloor s / S \rfloor` or one more along each axis. So :math:`r = 0`
for maps that are sampled finely enough, and for layers that follow the image to the nearest place
they have, such as adaptive polyphase sampling (Chaman and Dokmanic 2021, arXiv 2011.14214).
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn
from tqdm.auto import tqdm

from ...backbones.forwarding import entered
from ...backbones.layer import Layer
from ...certificates.determinism import first_random
from ...errors import ProbeError, whole_number
from ...files import json_bytes, reading, write_files
from ...report.figures.consistency import plot_consistency
from ...runner.options import Options, SharedGiven, takes_options
from ...runner.setup import Opened, one_weights, opened, weights_record
from ...scores.intervals import bootstrap_interval
from ...text import interval, number_text
from ...variants.run import VariantRun, running

COLUMNS = ["layer", "depth", "stride", "shift", "metric", "value", "low", "high"]
"""Columns of a consistency table."""

POOLED, TOP = "pooled", "top class"
"""What stands for a layer where the features are pooled, and where the network has a head."""


_CHANCE = 1e-3
"""Difference of two passes over the same images, by what it could be, that is no rounding."""


@dataclass(frozen=True)
class Consistency:
    """What shifts below the stride change.

    Attributes
    ----------
    table : DataFrame
        Tidy, one row per layer and shift (pixels, down and to the right), with columns
        :data:`COLUMNS`; ``metric`` is ``residual`` (0: the layer follows the image exactly) of a
        layer, ``cosine`` of ``pooled`` features before and after the shift, or ``agreement`` of
        the ``top class`` (share of images). ``value`` is the mean over images, ``low`` and
        ``high`` its 95 % interval.
    provenance : dict
        Model, weights, options, versions.
    """

    table: pd.DataFrame
    provenance: dict[str, Any]

    def summary(self) -> list[str]:
        """Say it in sentences: the first layer that does not follow, the worst, and the end.

        The first layer is the first in depth whose residual exceeds 1 % at some shift.
        """
        name, residuals = self.provenance["name"], self.table[self.table["metric"] == "residual"]
        worst = residuals.sort_values("value", kind="stable").drop_duplicates("layer", keep="last")
        worst = worst.sort_values("depth", kind="stable")
        moved = worst[worst["value"] > 0.01]
        span = f"shifts of 1 to {int(residuals['shift'].max())} pixels"
        if moved.empty:
            sentences = [f"{name}: every layer follows {span} to within 1 % of its features."]
        else:
            first, most = moved.iloc[0], worst.sort_values("value", kind="stable").iloc[-1]
            sentences = [
                f"{name}: under {span} features stop following the image at {first['layer']}: "
                f"they change by {_percent(first)} of their norm at {first['shift']} px, the worst "
                f"of its shifts; of all layers {most['layer']} changes most, by {_percent(most)}."
            ]
        for metric, words in (
            ("cosine", "pooled features keep a cosine of at least {}"),
            ("agreement", "the top class stays the same for at least {} of the images"),
        ):
            rows = self.table[self.table["metric"] == metric]
            if len(rows):
                least = rows.sort_values("value", kind="stable").iloc[0]
                bounds = interval(least["value"], least["low"], least["high"])
                sentences.append(
                    f"{words.format(bounds)} (the lowest of {len(rows)} shifts, at "
                    f"{least['shift']} px)."
                )
        return [sentences[0], *(s[0].upper() + s[1:] for s in sentences[1:])]

    def plot(self, *, ax: Axes | None = None) -> Figure | Axes:
        """Plot residuals by shift, a line for each layer; see :func:`probe.plot_consistency`."""
        return plot_consistency(self.table, title=self.provenance["name"], ax=ax)

    def save(self, folder: str | Path) -> Path:
        """Write ``consistency.csv`` and ``consistency.json``, whole or not at all."""
        files = {
            "consistency.csv": self.table.to_csv(index=False).encode(),
            "consistency.json": json_bytes(self.provenance),
        }
        write_files(Path(folder), files)
        return Path(folder)


def load_consistency(folder: str | Path) -> Consistency:
    """Read what :meth:`Consistency.save` wrote.

    Raises
    ------
    ProbeError
        If it isn't there or can't be read.
    """
    folder = Path(folder)
    with reading(folder, "consistency"):
        provenance = json.loads((folder / "consistency.json").read_text(encoding="utf-8"))
        table = pd.read_csv(folder / "consistency.csv")
        return Consistency(table[COLUMNS], provenance)


@takes_options(
    *("layers", "variants", "image_size", "batch_size", "seed", "device", "progress"),
    "forward_kwargs",
    variants="circular",
    batch_size=8,
)
def consistency(
    model: str | nn.Module,
    weights: str | Path = "pretrained",
    *,
    images: int = 16,
    shifts: Sequence[int] | None = None,
    **options: Unpack[SharedGiven],
) -> Consistency:
    """Measure how features follow an image that moves by less than the network's stride.

    Parameters
    ----------
    model : str or Module
        As for :func:`probe.run`.
    weights : str
        One of those of :func:`probe.run`.
    images : int
        How many leaves, images that tile; at least 2.
    shifts : sequence of int, optional
        Pixels, down and to the right at once; by default 1 to the stride of the
        layers − 1.
    {options}

    Returns
    -------
    Consistency

    Raises
    ------
    ProbeError
        If the layers have a stride of 1, several variants are asked for, the network is not
        deterministic in eval mode, or as :func:`probe.run`.

    Examples
    --------
    >>> probe.consistency("resnet50").summary()
    """
    whole_number(images, "images", 2)
    settled = {"weights": one_weights(model, weights), "stimuli": "leaves", "train_images": images}
    chosen = Options.of(options, **settled)
    if len(chosen.variants) != 1:
        raise ProbeError(f"variants: expected one, got {', '.join(chosen.variants)}")
    with opened(model, chosen) as setup:
        stride = max(max(_stride(layer)) for layer in setup.probed.layers)
        if stride < 2 and shifts is None:
            raise ProbeError(
                f"the layers of {setup.first.name} have a stride of 1, so that no shift lies "
                "below it; give shifts or other layers"
            )
        moves = list(range(1, stride)) if shifts is None else list(shifts)
        for shift in moves:
            whole_number(shift, "shifts", 1)
        if not moves or max(moves) >= min(setup.size):
            raise ProbeError(
                f"shifts: expected pixels below the image's {min(setup.size)}, got {moves}"
            )
        _check_deterministic(setup)
        condition = setup.condition(setup.job(), setup.first, setup.variants[0])
        rows = _measure(setup, condition.view, images, moves)
        provenance = {
            **setup.origin(),
            **weights_record(setup.first),
            **setup.recorded("layers", "variants", "image_size", "seed"),
            "images": images,
            "shifts": moves,
        }
    return Consistency(rows, provenance)


def _check_deterministic(setup: Opened) -> None:
    """Refuse a network in which chance would be taken for an image that moved."""
    first, names = setup.first, [layer.name for layer in setup.probed.layers]
    run, x = entered(first.model, setup.probed.entry), first.normalise(setup.leaves[:1])
    found = first_random(first.model, run, x, names, _CHANCE)
    if found is not None:
        raise ProbeError(
            f"{first.name} is not deterministic in eval mode: two passes over the same images "
            f"differ from {found} on, which can't be told from a shift; switch its noise or "
            "dropout off"
        )


def _measure(setup: Opened, view: VariantRun, images: int, moves: Sequence[int]) -> pd.DataFrame:
    model, backbone = setup.first.model, setup.first
    head = _head(model, view)
    measured: dict[tuple[str, int], list[float]] = {}
    starts = range(0, images, setup.options.batch_size)
    bar = tqdm(
        total=len(starts) * (len(moves) + 1),
        desc=f"consistency {backbone.name}",
        unit="batch",
        disable=not setup.options.progress,
        dynamic_ncols=True,
    )
    with torch.no_grad(), bar:
        for start in starts:
            stop = min(start + setup.options.batch_size, images)
            plain = setup.stimuli.batch("train", start, stop)  # each a scene of its own
            maps, ends = _features(view, setup, plain, head)
            bar.update()
            for shift in moves:
                moved = torch.roll(plain, (shift, shift), (2, 3))
                after, ends_after = _features(view, setup, moved, head)
                for layer in view.layers:
                    name = layer.name
                    found = _residuals(layer, maps[name], after[name], shift)
                    measured.setdefault((name, shift), []).extend(found)
                for kind, compare in (("cosine", _cosine), ("agreement", _agreement)):
                    if kind in ends:
                        found = compare(ends[kind], ends_after[kind])
                        measured.setdefault((kind, shift), []).extend(found)
                bar.update()
    known = {layer.name: layer for layer in view.layers}
    last = view.layers[-1].depth
    rows = []
    for (name, shift), values in measured.items():
        seen = known.get(name)
        scores = np.array(values)
        low, high = bootstrap_interval(scores, setup.options.seed)
        at = {
            "layer": seen.name if seen else {"cosine": POOLED, "agreement": TOP}[name],
            "depth": seen.depth if seen else last,
            "stride": max(_stride(seen)) if seen else setup.stride,
            "shift": shift,
            "metric": "residual" if seen else name,
        }
        rows.append(at | {"value": scores.mean(), "low": float(low), "high": float(high)})
    table = pd.DataFrame(rows, columns=COLUMNS)
    return table.sort_values(["depth", "layer", "shift"], kind="stable", ignore_index=True)


def _features(
    view: VariantRun, setup: Opened, images: Tensor, head: Callable[[Tensor], Tensor] | None
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Maps of the layers, pooled features, and the network's classes where it has a head."""
    maps: dict[str, Tensor] = {}

    def keep(layer: Layer, features: Tensor) -> None:
        maps[layer.name] = features.clone()

    x = setup.first.normalise(images)
    seed = setup.options.seed
    with running(view.variant, setup.first.model, x, seed=seed, wrap_unpadded=view.wrap_unpadded):
        out = view.probed.run(setup.first.model, x, keep)
        ends = {"cosine": maps[view.layers[-1].name].mean((2, 3))}
        if head is not None:
            ends["agreement"] = head(out).argmax(1)
    return maps, ends


def _head(model: nn.Module, view: VariantRun) -> Callable[[Tensor], Tensor] | None:
    """How classes follow from what the network's entry returns; nothing where it has none."""
    if not getattr(model, "num_classes", 0):
        return None
    if view.probed.entry == "forward":
        return lambda out: out
    head = getattr(model, "forward_head", None)
    return head if callable(head) else None


def _stride(layer: Layer) -> tuple[int, int]:
    height, width = layer.image_size
    return max(height // layer.height, 1), max(width // layer.width, 1)


def _residuals(layer: Layer, before: Tensor, after: Tensor, shift: int) -> list[float]:
    """Each image's least relative change, over whole places next to the shift and the shift."""
    strides = _stride(layer)
    down, right = (range(shift // s, shift // s + (2 if shift % s else 1)) for s in strides)
    ways = [torch.roll(before, move, (2, 3)) for move in itertools.product(down, right)]
    if any(shift % s for s in strides):
        ways.append(_moved(before, [shift / s for s in strides]))
    scale = before.flatten(1).norm(dim=1).clamp(min=torch.finfo(before.dtype).tiny)
    apart = [(after - way).flatten(1).norm(dim=1) / scale for way in ways]
    return torch.stack(apart).amin(0).tolist()


def _moved(features: Tensor, places: Sequence[float]) -> Tensor:
    """Move maps by a fraction of a place, by the shift theorem of the Fourier transform."""
    spectrum = torch.fft.fft2(features)
    for dim, move in zip((2, 3), places, strict=True):
        n = features.shape[dim]
        waves = torch.fft.fftfreq(n, device=features.device, dtype=features.dtype)
        turn = torch.exp(-2j * torch.pi * waves * move)
        if n % 2 == 0:  # the highest frequency has no sign: its real part is what samples keep
            turn[n // 2] = math.cos(math.pi * move)
        spectrum = spectrum * turn.reshape([-1 if d == dim else 1 for d in range(4)])
    return torch.fft.ifft2(spectrum).real


def _cosine(before: Tensor, after: Tensor) -> list[float]:
    return torch.cosine_similarity(before, after, dim=1).tolist()


def _agreement(before: Tensor, after: Tensor) -> list[float]:
    return (before == after).float().tolist()


def _percent(row: pd.Series) -> str:
    value, low, high = (number_text(100 * row[name], ".1f") for name in ("value", "low", "high"))
    return f"{value} % [{low}, {high}]"
