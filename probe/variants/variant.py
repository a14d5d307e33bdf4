"""Variants: the named ways to run a backbone.

``original`` runs it as it was trained; each of the others takes a source of position away. A name
has one part for borders (a rule of :func:`probe.padding`, or ``canvas``) and one for each other
kind of source (``no_pos_embed``, ``no_rel_bias``, …), joined by ``+`` if there are several.
``no_position`` is all of them with circular padding.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping
from dataclasses import dataclass

from ..borders.rules import RULES, Rule
from ..errors import ProbeError, one_of
from .kinds import EMBEDDING, PADDING
from .removals import NO_POSITION, REMOVALS, Everything, Removal

CANVAS = Rule("a larger stretch of the stimulus, of which only the middle is probed", None, True)

EVERYTHING = "no_position"
"""The part of a name that stands for circular padding and :data:`NO_POSITION`."""

VARIANTS: Mapping[str, Rule | Removal | Everything] = ChainMap(
    REMOVALS,  # type: ignore[arg-type]
    {EVERYTHING: Everything()},
    {"canvas": CANVAS},
    RULES,  # type: ignore[arg-type]
)
"""Parts of which the names of variants are made: border rules, ``canvas``, and removals."""


@dataclass(frozen=True)
class Variant:
    """A way to run a backbone.

    Attributes
    ----------
    name : str
        Its parts joined by ``+``.
    rule : str
        The border rule, see :func:`probe.padding`.
    canvas : bool
        Whether the network sees a larger stretch of the stimulus than is probed.
    removals : tuple of str
        Of :data:`~probe.variants.removals.REMOVALS`, at most one for each kind of source.
    """

    name: str
    rule: str = "original"
    canvas: bool = False
    removals: tuple[str, ...] = ()

    @property
    def removes_padding(self) -> bool:
        """Whether nothing of padding should be left."""
        return self.canvas or RULES[self.rule].removes_padding

    @property
    def embedding(self) -> str:
        """What becomes of absolute position embeddings; empty if nothing does."""
        return next((r for r in self.removals if REMOVALS[r].kind == EMBEDDING), "")

    @property
    def everything(self) -> bool:
        """Whether it takes away whatever a network has, and asks for nothing of its own."""
        return EVERYTHING in self.name.split("+")

    @property
    def removed_kinds(self) -> frozenset[str]:
        """Kinds of sources of which nothing should be left."""
        kinds = {REMOVALS[r].kind for r in self.removals if REMOVALS[r].removes}
        return frozenset(kinds | ({PADDING} if self.removes_padding else set()))

    @property
    def description(self) -> str:
        """What it is, in words."""
        return "; ".join(VARIANTS[part].words for part in self.name.split("+"))

    @property
    def torus(self) -> bool:
        """Whether a shift of the torus should shift all features."""
        return self.rule != "valid"


def parse_variant(name: str) -> Variant:
    """Take a variant's name apart."""
    parts = [one_of(part.strip(), VARIANTS, "variant") for part in str(name).split("+")]
    everything = EVERYTHING in parts
    borders = [part for part in parts if part not in REMOVALS and part != EVERYTHING]
    removals = [part for part in REMOVALS if part in parts]
    kinds = [REMOVALS[part].kind for part in removals]
    if len(borders) > 1 or len(set(parts)) < len(parts) or len(set(kinds)) < len(kinds):
        raise ProbeError(
            f"variant {name!r}: expected at most one border rule and one removal for each kind "
            f"of source, got {len(parts)} parts: {', '.join(parts)}"
        )
    border = borders[0] if borders else ("circular" if everything else "original")
    shown = [b for b in borders if b != ("circular" if everything else "original")]
    whole = [*removals, *(r for r in NO_POSITION if REMOVALS[r].kind not in kinds)]
    return Variant(
        "+".join([*shown, *([EVERYTHING] if everything else []), *removals]) or "original",
        "original" if border == "canvas" else border,
        border == "canvas",
        tuple(whole if everything else removals),
    )
