"""The sections of a report, in order."""

from __future__ import annotations

from .attribution import attribution_section
from .erasure import erasure_section
from .patterns import pattern_section, reach_section
from .scores import (
    certificate_section,
    controls_section,
    depth_section,
    images_section,
    maps_section,
    padding_section,
    scores_section,
    variants_section,
)
from .section import Section

SECTIONS: dict[str, Section] = {
    section.anchor: section
    for section in (
        Section("images", "What the network saw", "sections/images.html", images_section),
        Section("depth", "Score by depth", "sections/depth.html", depth_section),
        Section(
            "padding", "What each variant takes away", "sections/padding.html", padding_section
        ),
        Section("maps", "Mean predicted maps", "sections/maps.html", maps_section),
        Section("reach", "How far from the border", "sections/reach.html", reach_section),
        Section("pattern", "The pattern", "sections/pattern.html", pattern_section),
        Section("who", "Who put it there", "sections/who.html", attribution_section),
        Section("erasure", "Position taken out", "sections/erasure.html", erasure_section),
        Section("controls", "Controls", "sections/controls.html", controls_section),
        Section("certificate", "Certificate", "sections/certificate.html", certificate_section),
        Section("all", "All scores", "sections/all.html", scores_section),
        Section("how", "How it was measured", "sections/how.html", variants_section),
    )
}
"""Sections by anchor. One more, ``SECTIONS["mine"] = Section(...)``, comes last."""
