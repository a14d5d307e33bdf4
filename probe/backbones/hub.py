"""The Hugging Face hub: whether it can be reached, found out once and quickly."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from ..text import first_line

TIMEOUT = 10
"""Seconds that the hub has to answer in."""

_HOLDS = 60
_known: dict[str, tuple[float, str]] = {}


@contextmanager
def hub_within_reach() -> Iterator[str]:
    """Keep to what is on this machine, in the block, where the hub does not answer.

    ``huggingface_hub`` tries each file again and again for about 50 s; here a single request is
    made before, and its answer holds for a minute. Without one, the block runs in the library's
    own offline mode (``HF_HUB_OFFLINE``): files of its cache load, others are refused at once.

    Yields
    ------
    str
        Why the hub can't be reached; empty where it can.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    cause = "HF_HUB_OFFLINE is set" if before else _unreachable(constants.ENDPOINT)
    constants.HF_HUB_OFFLINE = before or bool(cause)
    try:
        yield cause
    finally:
        constants.HF_HUB_OFFLINE = before


def _unreachable(endpoint: str) -> str:
    from huggingface_hub.utils import get_session

    then, cause = _known.get(endpoint, (float("-inf"), ""))
    if time.monotonic() - then < _HOLDS:
        return cause
    cause = ""
    try:
        get_session().head(endpoint, timeout=TIMEOUT)
    except Exception as error:  # those of whichever client huggingface_hub is built on
        cause = first_line(error) or type(error).__name__
    _known[endpoint] = time.monotonic(), cause
    return cause
