"""How every figure looks: colours, names of axes, labels that fit."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

T = TypeVar("T")

CMAP = "viridis"
"""Colour map of position maps, over [0, 1]."""

DIVERGING = "RdBu_r"
"""Colour map of mean maps about their mean."""

PAGE: dict[str, str] = {
    "ink": "#1c2330",
    "soft": "#5b6575",
    "line": "#dfe3ea",
    "tint": "#f2f3f5",
    "paper": "#ffffff",
}
"""Colours of text and axes, quieter ones, grids, shaded bands and the ground, by the names that
they have in the style sheet of all pages, which has others for the dark."""

INK, SOFT, LINE, TINT, PAPER = PAGE.values()

PALETTE: tuple[str, ...] = (
    *("#0173b2", "#c47a00", "#029e73", "#bf6bb0", "#d55e00"),
    *("#9c6b3f", "#008fa8", "#d6336c", "#7a5fd0", "#7d8000"),
)
"""Colours of lines: told apart with colour-blind eyes (the first five are near Okabe and Ito's),
and with a contrast of 3 : 1 or more on white paper and on the dark one."""

INPUT = "input"
"""The control layer: the pixels themselves."""

LABELS = {
    "spc": "SPC",
    "mae": "Mean absolute error",
    "r2": "R²",
    "control": "SPC on the control task",
    "selectivity": "SPC less control task",
    "error_px": "Localisation error (px)",
    "top1": "Share of cells found",
    "follows": "SPC for the shifted target, readout as trained",
    "stays": "SPC for the target in its place, readout as trained",
}


@contextmanager
def style(*, always: bool = False) -> Iterator[None]:
    """Draw in Probe's style; matplotlib's settings are put back afterwards.

    Parameters
    ----------
    always : bool
        Also where the user has changed a setting, by a theme or otherwise; for pages.
    """
    # The backend is chosen when it is first needed. Chosen within the block, what it sets (in a
    # notebook, that figures show themselves) would be put back with the rest.
    plt.draw_if_interactive()
    settings = {
        **sns.axes_style("ticks"),
        **sns.plotting_context("paper", font_scale=1.1),
        "font.family": "sans-serif",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.grid.axis": "y",
        "grid.color": LINE,
        **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor"), INK),
        **dict.fromkeys(("xtick.color", "ytick.color"), INK),
        "legend.frameon": False,
        "svg.fonttype": "none",
    }
    if not always:
        settings = {
            key: value
            for key, value in settings.items()
            if matplotlib.rcParams[key] == matplotlib.rcParamsDefault[key]
        }
    with matplotlib.rc_context(settings):
        yield


class PaperFigure(Figure):
    """A figure as papers and pages want it.

    PDF and PostScript embed their fonts as TrueType, as publishers ask; where the user has set
    another type than matplotlib's usual one, that is kept. Signs that the font lacks, of names in
    other scripts, are boxes without a warning for each.
    """

    def savefig(self, *args: Any, **kwargs: Any) -> None:
        """Save as matplotlib does."""
        now: Any = matplotlib.rcParams
        usual: Any = matplotlib.rcParamsDefault
        unset: Any = {t: 42 for t in ("pdf.fonttype", "ps.fonttype") if now[t] == usual[t]}
        with matplotlib.rc_context(unset):
            super().savefig(*args, **kwargs)

    def draw(self, renderer: Any) -> None:
        """Draw as matplotlib does."""
        with _boxes_for_signs():
            super().draw(renderer)

    def get_tightbbox(self, *args: Any, **kwargs: Any) -> Any:
        """Measure as matplotlib does."""
        with _boxes_for_signs():
            return super().get_tightbbox(*args, **kwargs)


@contextmanager
def _boxes_for_signs() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph .* missing from")
        yield


def new_figure(figsize: tuple[float, float] | None = None) -> Figure:
    """A figure of pyplot's of so many inches, its parts laid out within it."""
    return plt.figure(FigureClass=PaperFigure, figsize=figsize, layout="constrained")


def panel(draw: Callable[[Axes], Any]) -> Figure:
    """One panel as a figure of its own, apart from pyplot and without legend, for a page."""
    with style(always=True):
        figure = PaperFigure(figsize=(4.0, 2.9), layout="constrained")
        draw(figure.subplots())
    return figure


def plain_text(text: str) -> str:
    """Keep matplotlib from reading a name as mathematics."""
    return text.replace("$", r"\$")


def evenly(names: Sequence[T], most: int) -> list[T]:
    """At most so many of the names, spread evenly, first and last among them."""
    if len(names) <= most:
        return list(names)
    return [names[i] for i in np.unique(np.linspace(0, len(names) - 1, most).round().astype(int))]


def legend_columns(entries: Sequence[Line2D], width: float) -> int:
    """How many entries fit beside each other in so many inches."""
    widest = max(len(str(entry.get_label())) for entry in entries)
    fitting = max(1, int(width / (0.55 + 0.078 * widest)))
    lines = -(-len(entries) // fitting)
    return -(-len(entries) // lines)


def bare_axes(axes: Axes) -> None:
    axes.set(xticks=[], yticks=[])
    sns.despine(ax=axes, left=True, bottom=True)


def row_label(axes: Axes, words: str) -> None:
    axes.set_ylabel(plain_text(words), rotation=0, ha="right", va="center", labelpad=8)


def shown_once(figure: Figure) -> Figure:
    """In a notebook the returned figure is what shows; pyplot must not show it again."""
    if "inline" in matplotlib.get_backend().lower():
        plt.close(figure)
    return figure
