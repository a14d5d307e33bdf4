"""Units of attribution that are kinds of sources: padding, embeddings, biases, rotations, masks."""

from __future__ import annotations

from dataclasses import dataclass

from ...certificates.inventory import take_inventory
from ...errors import ProbeError
from ...runner.setup import Opened
from ...variants.kinds import PADDING
from ...variants.removals import NO_POSITION, REMOVALS
from ...variants.variant import Variant, parse_variant
from .units import Kept


@dataclass(frozen=True)
class SourceRuns:
    """The runs of an attribution to kinds of sources.

    Attributes
    ----------
    kept : list of Kept
        What keeps its position in each row of the table.
    variants : list of Variant
        How the network is run for it; several rows may share one.
    left : tuple of str
        Kinds that nothing can take away; they stay in every run.
    """

    kept: list[Kept]
    variants: list[Variant]
    left: tuple[str, ...]


def plan_sources(setup: Opened) -> SourceRuns:
    """Find the network's kinds of sources, and plan each of them alone and all but each.

    Raises
    ------
    ProbeError
        If the network has no source that can be taken away.
    """
    backbone, probed = setup.first, setup.probed
    x = backbone.normalise(setup.leaves[:1])
    kinds = list(dict.fromkeys(take_inventory(backbone.model, x, probed.entry)["kind"]))
    removal = {REMOVALS[name].kind: name for name in NO_POSITION}
    removal[PADDING] = "circular"
    known = [kind for kind in removal if kind in kinds]
    known.sort(key=kinds.index)
    left = tuple(kind for kind in kinds if kind not in removal)
    if not known:
        there = f"there are {', '.join(left)}" if left else "its inventory is empty"
        raise ProbeError(
            f"{backbone.name} has no source of position that can be taken away: {there}; "
            "see probe.sources"
        )

    def without(removed: list[str]) -> Variant:
        return parse_variant("+".join(removal[kind] for kind in removed) or "original")

    runs = [
        (Kept("network", "original", 0, "all"), without([])),
        (Kept("network", "no_position", 1, "none"), without(known)),
    ]
    for order, kind in enumerate(known, 1):
        others = [other for other in known if other != kind]
        for keeps, removed in (("only", others), ("all but", [kind])):
            runs.append((Kept("source", kind, order, keeps, removal[kind]), without(removed)))
    return SourceRuns([k for k, _ in runs], [v for _, v in runs], left)
