"""Kinds of sources of position, and what is known of one; nothing here needs torch."""

from __future__ import annotations

import re
from dataclasses import dataclass

PADDING = "padding"
EMBEDDING = "position embedding"
RELATIVE = "relative position bias"
ROTARY = "rotary position embedding"
COORDINATES = "coordinates"
MASK = "attention mask"
WINDOWS = "window partition"
MIXING = "token mixing"
RECURRENCE = "recurrence over places"
RESAMPLING = "resampling"
FACTOR = "position-dependent factor"

KINDS: tuple[str, ...] = (
    *(PADDING, EMBEDDING, RELATIVE, ROTARY, COORDINATES, MASK),
    *(WINDOWS, MIXING, RECURRENCE, RESAMPLING, FACTOR),
)
"""Kinds of sources of position."""

NAMES = (
    (COORDINATES, re.compile(r"^(\S+\.)?coord_weight$")),
    (RELATIVE, re.compile(r"rel_|_rel|relative|attention_bias|attn_bias|bias_table|rpe|cpb|rpb")),
    (ROTARY, re.compile(r"rope|rotary")),
    (
        EMBEDDING,
        re.compile(r"pos_emb|pos_enc|pos_drop|position|(^|\.|_)pos($|\.|_)|(^|\.)ape($|\.)"),
    ),
    (MASK, re.compile(r"attn_mask|attention_mask|(^|\.)mask($|\.)")),
)


@dataclass(frozen=True)
class Source:
    """A tensor that doesn't depend on the image meets one that does.

    ``parameter`` names the parameters and buffers that it was made from.
    """

    kind: str
    module: str
    function: str
    parameter: str = ""
