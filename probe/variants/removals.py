"""Removals of sources of position other than padding, by name; nothing here needs torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Removal:
    """What becomes of absolute position embeddings.

    ``change`` takes the embeddings of all places, shape (1, L, C), and a permutation of places
    drawn with the run's seed, shape (L,); it returns what stands in their place, of the same shape.
    """

    words: str
    change: Callable[[Tensor, Tensor], Tensor]


REMOVALS: dict[str, Removal] = {
    "no_pos_embed": Removal(
        "absolute position embeddings at their mean over places",
        lambda places, order: places.mean(1, keepdim=True).expand_as(places),
    ),
    "shuffled_pos_embed": Removal(
        "absolute position embeddings permuted over places", lambda places, order: places[:, order]
    ),
}
"""Parts of a variant's name that are about position embeddings."""
