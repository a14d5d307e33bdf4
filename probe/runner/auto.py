"""Which variants a network calls for: ``variants="auto"``."""

from __future__ import annotations

from collections.abc import Collection

from ..variants.kinds import PADDING
from ..variants.removals import NO_POSITION, REMOVALS
from ..variants.variant import EVERYTHING

AUTO = "auto"

PADDING_ALONE = ("original", "circular")


def auto_variants(kinds: Collection[str]) -> tuple[str, ...]:
    """Choose variants by the kinds of sources of position that a network has.

    ``original`` and ``circular`` where nothing but padding can be taken away, or nothing at all;
    else ``original``, each kind taken away alone, and, of several, all of them together.

    Parameters
    ----------
    kinds : collection of str
        Of :data:`probe.variants.kinds.KINDS`.
    """
    removal = {PADDING: "circular"} | {REMOVALS[name].kind: name for name in NO_POSITION}
    alone = [name for kind, name in removal.items() if kind in kinds]
    if alone in ([], ["circular"]):
        return PADDING_ALONE
    return ("original", *alone, *([EVERYTHING] if len(alone) > 1 else []))
