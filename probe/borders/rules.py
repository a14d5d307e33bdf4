"""Border rules by name; nothing here needs torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Rule:
    """What a network finds beyond the edge of a feature map.

    ``fill`` is what stands in padding's place: a number; ``circular``, ``reflect``, ``replicate``
    or ``mean``; or a function that takes the strip to fill (a tensor) and returns its values; None
    where the operations themselves decide. ``removes_padding``: nothing of padding is left.
    """

    words: str
    fill: str | float | Callable[[Tensor], Tensor] | None = None
    removes_padding: bool = False


RULES: dict[str, Rule] = {
    "original": Rule("as trained"),
    "zeros": Rule("zeros beyond every edge, also where pooling leaves the border out", 0.0),
    "reflect": Rule("maps mirrored at their edges", "reflect"),
    "replicate": Rule("edge cells repeated", "replicate"),
    "circular": Rule("maps as a torus: no border on periodic images", "circular", True),
    "mean": Rule("beyond the edge, the channel's mean over the map", "mean"),
    "noise": Rule("beyond the edge, noise of the channel's mean and variance"),
    "partial": Rule("zeros, with outputs weighted by the share of the kernel on the map"),
    "valid": Rule("no padding: maps shrink, and only their middle is probed", None, True),
}
"""Border rules that :func:`probe.padding` takes. One more: ``RULES["half"] = Rule("½", 0.5)``."""

SIDES: tuple[str, ...] = ("top", "bottom", "left", "right")
"""Names of the sides of a feature map, in the order in which pads are written."""
