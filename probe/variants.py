"""Variants: the named ways to run a backbone.

``original`` runs it as it was trained; each of the others takes a source of position away.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from .borders import RULES, padding

VARIANTS: tuple[str, ...] = RULES
"""Names of the variants: ``original``, and one for each border rule."""


def running(variant: str) -> AbstractContextManager[Any]:
    """Return the context in which a backbone runs as the variant says.

    Parameters
    ----------
    variant : str
        One of :data:`VARIANTS`.

    Raises
    ------
    ProbeError
        If there is no such variant.
    """
    return nullcontext() if variant == "original" else padding(variant)
