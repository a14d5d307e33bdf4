"""Many networks in one figure: scores by relative depth, and one number against another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ...errors import ProbeError, chosen, one_of
from ..style import LABELS, PALETTE, SOFT, legend_columns, new_figure, plain_text, shown_once, style
from .depth import scored_targets, target_panels

_REST = "others"
_AXES = {
    "parameters": "Parameters",
    "depth_known": "Relative depth where position is first known",
    "localisation_error": LABELS["error_px"],
    "layers": "Probed layers",
    "top1": "ImageNet top-1 (%)",
    "seconds": "Seconds",
}


def plot_networks(
    table: pd.DataFrame,
    metric: str = "spc",
    targets: str | Sequence[str] | None = None,
    *,
    hue: str = "network",
    width: float | None = None,
    ax: Axes | None = None,
) -> Figure | Axes:
    """Plot the scores of many networks by relative depth, a panel for each target.

    Each network is a line. Where several share a hue, their median is a thick one over the band
    of their middle half; where one has it alone, the band is its 95 % interval.

    Parameters
    ----------
    table : DataFrame
        Scores, one row each, with columns ``cell``, ``network``, ``relative_depth``, ``layer``,
        ``target``, ``metric``, ``value``, ``low``, ``high`` and ``hue``; one variant of each.
    metric : str
        See :class:`probe.Result`.
    targets : str or sequence of str, optional
        All that have such a score by default.
    hue : str
        Column that colours the lines; of more than ten values the largest nine have their own.
    width : float, optional
        Of the figure, in inches: 3.3 is a column of most papers. As wide as its panels need by
        default.
    ax : Axes, optional
        Where to draw, of one target; ``ax.legend()`` then names the lines.

    Returns
    -------
    Figure, or Axes if ``ax`` was given

    Raises
    ------
    ProbeError
        If there is no such metric, target or column, or ``ax`` is given for several targets.
    """
    one_of(metric, LABELS, "metric")
    one_of(hue, [str(name) for name in table.columns], "column for hue")
    scored = scored_targets(table, metric)
    if not scored:
        raise ProbeError(f"metric: the table has no scores {metric!r}")
    shown = scored if targets is None else chosen(targets, scored, "target")
    rows = table[(table["metric"] == metric) & (table["relative_depth"] > 0)]
    colours = _colours(rows, hue)
    if ax is not None:
        if len(shown) != 1:
            raise ProbeError(f"ax: expected one target, got {len(shown)}; name it in targets")
        with style():
            _draw(rows[rows["target"] == shown[0]], metric, shown[0], hue, colours, ax)
        return ax

    def draw(target: str, axes: Axes) -> None:
        _draw(rows[rows["target"] == target], metric, target, hue, colours, axes)

    with style():
        figure = target_panels(shown, draw, _entries(colours), width, sharey=metric != "mae")
    return shown_once(figure)


def plot_scatter(
    models: pd.DataFrame, x: str, y: str, *, hue: str = "family", ax: Axes | None = None
) -> Figure | Axes:
    """Plot one number of each network against another.

    Parameters
    ----------
    models : DataFrame
        One row per network.
    x, y : str
        Columns of numbers; those with ``_low`` and ``_high`` beside them get their intervals.
        Parameters are on a logarithmic axis.
    hue : str
        Column that colours the points.
    ax : Axes, optional
        Where to draw; ``ax.legend()`` then names the colours.

    Returns
    -------
    Figure, or Axes if ``ax`` was given

    Raises
    ------
    ProbeError
        If there is no such column, or no network has both numbers.
    """
    numeric = [str(n) for n in models.columns if pd.api.types.is_numeric_dtype(models[n])]
    for name, axis in ((x, "x"), (y, "y")):
        one_of(name, numeric, f"column for {axis}")
    one_of(hue, [str(name) for name in models.columns], "column for hue")
    rows = models[models[x].notna() & models[y].notna()]
    if rows.empty:
        raise ProbeError(f"no network has both {x} and {y}")
    colours = _colours(rows, hue)
    with style():
        figure = None
        if ax is None:
            figure = new_figure(figsize=(5.6, 4.0))
            ax = figure.subplots()
        for label, members in _grouped(rows, hue, colours).items():
            ax.errorbar(
                members[x].to_numpy(float), members[y].to_numpy(float), xerr=_spread(members, x),
                yerr=_spread(members, y), color=colours[label], label=plain_text(label),
                linestyle="none", marker="o", markersize=4.5, elinewidth=0.8,
            )  # fmt: skip
        if x in ("parameters", "seconds"):
            ax.set_xscale("log")
        if y in ("parameters", "seconds"):
            ax.set_yscale("log")
        ax.set(xlabel=_axis_label(x), ylabel=_axis_label(y))
        if figure is None:
            return ax
        entries = _entries(colours)
        figure.legend(
            handles=entries, loc="outside lower center", ncols=legend_columns(entries, 5.6)
        )
    return shown_once(figure)


def _axis_label(name: str) -> str:
    if name.startswith("spc_"):
        return f"Best SPC, {plain_text(name.removeprefix('spc_').replace('_', ' '))}"
    return _AXES.get(name, plain_text(name.replace("_", " ")))


def _spread(rows: pd.DataFrame, name: str) -> np.ndarray | None:
    """Distances to the bounds, where a column has them."""
    if f"{name}_low" not in rows or f"{name}_high" not in rows:
        return None
    value, low, high = (rows[f"{name}{end}"].to_numpy(float) for end in ("", "_low", "_high"))
    return np.maximum(np.nan_to_num(np.stack([value - low, high - value])), 0)


def _colours(rows: pd.DataFrame, hue: str) -> dict[str, str]:
    """Colours by value, the largest groups first; grey for the rest of more than ten."""
    key = "cell" if "cell" in rows else hue
    sizes = rows.groupby(rows[hue].astype(str), sort=False)[key].nunique()
    names = [str(name) for name in sizes.sort_values(ascending=False, kind="stable").index]
    if len(names) <= len(PALETTE):
        return dict(zip(names, PALETTE, strict=False))
    kept = names[: len(PALETTE) - 1]
    return {**dict(zip(kept, PALETTE, strict=False)), _REST: SOFT}


def _grouped(rows: pd.DataFrame, hue: str, colours: dict[str, str]) -> dict[str, pd.DataFrame]:
    labels = rows[hue].astype(str)
    labels = labels.where(labels.isin(list(colours)), _REST)
    return {label: rows[labels == label] for label in colours if (labels == label).any()}


def _entries(colours: dict[str, str]) -> list[Line2D]:
    return [
        Line2D([], [], color=colour, marker="o", markersize=4.5, label=plain_text(label))
        for label, colour in colours.items()
    ]


def _draw(
    rows: pd.DataFrame, metric: str, target: str, hue: str, colours: dict[str, str], axes: Axes
) -> None:
    """Draw one target's lines, and the band of each hue."""
    for label, members in _grouped(rows, hue, colours).items():
        curves = [
            curve.sort_values("relative_depth", kind="stable")
            for _, curve in members.groupby("cell", sort=False)
        ]
        alone = len(curves) == 1
        for curve in curves:
            depth, value = (curve[name].to_numpy(float) for name in ("relative_depth", "value"))
            axes.plot(
                depth, value, color=colours[label], alpha=1 if alone else 0.35,
                linewidth=1.5 if alone else 0.7, marker="o" if alone else "", markersize=4,
                markeredgewidth=0, label=plain_text(label) if alone else "_",
            )  # fmt: skip
        if alone:
            depth, low, high = (
                curves[0][name].to_numpy(float) for name in ("relative_depth", "low", "high")
            )
        else:
            depth = np.linspace(0, 1, 21)
            grid = np.stack([_at(depth, curve) for curve in curves])
            depth = depth[kept := np.isfinite(grid).sum(0) >= max(2, len(curves) / 2)]
            low, middle, high = np.nanquantile(grid[:, kept], (0.25, 0.5, 0.75), axis=0)
            axes.plot(depth, middle, color=colours[label], linewidth=2.2, label=plain_text(label))
        axes.fill_between(depth, low, high, color=colours[label], alpha=0.18, linewidth=0)
    if metric == "spc":
        axes.axhline(0, color=SOFT, linewidth=0.8, zorder=0.5)
        axes.set_ylim(min(-0.12, float(np.nanmin(rows["value"], initial=0)) - 0.05), 1.03)
    axes.set(xlabel="relative depth", ylabel=LABELS[metric], xlim=(0, 1.02))
    axes.set_title(target.replace("_", " "), loc="left", fontweight="bold")
    sns.despine(ax=axes)


def _at(depth: np.ndarray, curve: pd.DataFrame) -> np.ndarray:
    """Scores of a network at other depths; before its first layer there are none."""
    places, values = (curve[name].to_numpy(float) for name in ("relative_depth", "value"))
    return np.interp(depth, places, values, left=np.nan)
