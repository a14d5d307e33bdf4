"""Where the command starts."""

from __future__ import annotations

import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import typer
from tqdm.auto import tqdm

from ..errors import ProbeError, ProbeWarning
from .app import app

# Importing them registers their commands, in this order.
# isort: off
from . import run  # noqa: F401
from . import zoo  # noqa: F401
from . import table  # noqa: F401
from . import analyses  # noqa: F401
from . import erasure  # noqa: F401
from . import studies  # noqa: F401
from . import networks  # noqa: F401
# isort: on


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Show Probe's cautions as one line each."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", ProbeWarning)
        show = warnings.showwarning

        def line(message: Any, category: Any, *rest: Any, **named: Any) -> None:
            if issubclass(category, ProbeWarning):
                tqdm.write(f"warning: {message}", sys.stderr)  # above the bars
            else:
                show(message, category, *rest, **named)

        warnings.showwarning = line
        yield


def main() -> None:
    """Run the command; explain what can't be done in one sentence and exit with status 2."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    ended: list[int] = []

    def terminated(number: int, frame: Any) -> None:
        """End like Ctrl-C does: workers are stopped, temporary files removed."""
        ended.append(128 + number)
        sys.exit(ended[-1])

    with suppress(ValueError):  # not the main thread
        signal.signal(signal.SIGTERM, terminated)
    try:
        with _plain_warnings():
            app()
    except BaseException as error:
        if ended:  # whatever the end broke on its way out is no fault
            sys.exit(ended[-1])
        if not isinstance(error, ProbeError):
            raise
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
