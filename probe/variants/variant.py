"""Variants: the named ways to run a backbone.

``original`` runs it as it was trained; each of the others takes a source of position away. A name
has one part for borders (a rule of :func:`probe.padding`, or ``canvas``) and one for position
embeddings (``no_pos_embed`` or ``shuffled_pos_embed``), joined by ``+`` if there are both.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..borders.rules import RULES
from ..errors import ProbeError, one_of

EMBEDDINGS: tuple[str, ...] = ("no_pos_embed", "shuffled_pos_embed")
"""Parts of a variant's name that are about absolute position embeddings."""

VARIANTS: tuple[str, ...] = (*RULES, "canvas", *EMBEDDINGS)
"""Parts of which the names of variants are made."""

DESCRIPTIONS: dict[str, str] = {
    "original": "as trained",
    "zeros": "zeros beyond every edge, also where pooling leaves the border out",
    "reflect": "maps mirrored at their edges",
    "replicate": "edge cells repeated",
    "circular": "maps as a torus: no border on periodic images",
    "mean": "beyond the edge, the channel's mean over the map",
    "noise": "beyond the edge, noise of the channel's mean and variance",
    "partial": "zeros, with outputs weighted by the share of the kernel on the map",
    "valid": "no padding: maps shrink, and only their middle is probed",
    "canvas": "a larger stretch of the stimulus, of which only the middle is probed",
    "no_pos_embed": "absolute position embeddings at their mean over places",
    "shuffled_pos_embed": "absolute position embeddings permuted over places",
}
"""What each part of a variant's name means."""

REMOVES_PADDING: tuple[str, ...] = ("circular", "canvas", "valid")
"""Parts that leave nothing of padding."""


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
        One of :data:`EMBEDDINGS`, or empty.
    """

    name: str
    rule: str = "original"
    canvas: bool = False
    embedding: str = ""

    @property
    def removes_padding(self) -> bool:
        """Whether nothing of padding should be left."""
        return self.canvas or self.rule in REMOVES_PADDING

    @property
    def description(self) -> str:
        """What it is, in words."""
        return "; ".join(DESCRIPTIONS[part] for part in self.name.split("+"))

    @property
    def torus(self) -> bool:
        """Whether a shift of the torus should shift all features."""
        return self.rule != "valid"


def parse_variant(name: str) -> Variant:
    """Take a variant's name apart.

    Raises
    ------
    ProbeError
        If a part is unknown, or there are two of one kind.
    """
    parts = [one_of(part.strip(), VARIANTS, "variant") for part in str(name).split("+")]
    borders = [part for part in parts if part not in EMBEDDINGS]
    embeddings = [part for part in parts if part in EMBEDDINGS]
    if len(borders) > 1 or len(embeddings) > 1:
        raise ProbeError(
            f"variant {name!r}: expected one border rule and one part for position embeddings at "
            f"most, got {len(borders)} and {len(embeddings)}"
        )
    border = borders[0] if borders else "original"
    canvas = border == "canvas"
    named = "+".join([*(b for b in borders if b != "original" or not embeddings), *embeddings])
    return Variant(named, "original" if canvas else border, canvas, "".join(embeddings))
