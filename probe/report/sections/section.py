"""What a section of a report is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from ...records.record import Record
from ..parts import templates


@dataclass(frozen=True)
class Section:
    """A part of a report that has a heading of its own.

    Attributes
    ----------
    anchor : str
        Its address within the page.
    title : str
        Its heading, also in the navigation.
    template : str
        Name of a template among Probe's own, which ends in ``.html``, or a template itself in
        Jinja's language. It sees the record as ``result``, with ``options`` and ``provenance``,
        and what ``build`` returns; names are escaped.
    build : callable
        Takes a :class:`~probe.records.Record` and returns what the template needs, or None where
        the record has nothing to show; the section is then left out.
    """

    anchor: str
    title: str
    template: str
    build: Callable[[Record], Mapping[str, Any] | None]

    def render(self, record: Record, shared: Mapping[str, Any]) -> Markup | None:
        """Return the section as HTML, without its heading."""
        context = self.build(record)
        if context is None:
            return None
        environment = templates()
        stored = self.template.endswith(".html")
        template = (environment.get_template if stored else environment.from_string)(self.template)
        return Markup(template.render(**shared, **context))
