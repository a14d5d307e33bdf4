"""Variants: the named ways to run a backbone.

``original`` runs it as it was trained; each of the others takes a source of position away. A name
has one part for borders (a rule of :func:`probe.padding`, or ``canvas``) and one for position
embeddings (``no_pos_embed`` or ``shuffled_pos_embed``), joined by ``+`` if there are both.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping
from dataclasses import dataclass

from ..borders.rules import RULES, Rule
from ..errors import ProbeError, one_of
from .removals import REMOVALS, Removal

CANVAS = Rule("a larger stretch of the stimulus, of which only the middle is probed", None, True)

VARIANTS: Mapping[str, Rule | Removal] = ChainMap(
    REMOVALS,  # type: ignore[arg-type]
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
    embedding : str
        One of :data:`~probe.variants.removals.REMOVALS`, or empty.
    """

    name: str
    rule: str = "original"
    canvas: bool = False
    embedding: str = ""

    @property
    def removes_padding(self) -> bool:
        """Whether nothing of padding should be left."""
        return self.canvas or RULES[self.rule].removes_padding

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
    borders = [part for part in parts if part not in REMOVALS]
    embeddings = [part for part in parts if part in REMOVALS]
    if len(borders) > 1 or len(embeddings) > 1:
        raise ProbeError(
            f"variant {name!r}: expected one border rule and one part for position embeddings at "
            f"most, got {len(borders)} and {len(embeddings)}"
        )
    border = borders[0] if borders else "original"
    canvas = border == "canvas"
    name = "+".join([*(b for b in borders if b != "original" or not embeddings), *embeddings])
    return Variant(name, "original" if canvas else border, canvas, "".join(embeddings))
