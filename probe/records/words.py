"""Words of verdicts: what certificates say, and what variants and sources are called."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping

from ..certificates.certificate import Certificate
from ..text import short_name
from ..variants.kinds import EMBEDDING, FACTOR, MASK, RELATIVE, ROTARY
from ..variants.variant import parse_variant

_COUNTED = (EMBEDDING, RELATIVE, ROTARY, MASK, FACTOR)
"""Kinds of sources of which a network can have several."""


def plural(kind: str) -> str:
    """Return the plural of a kind of source, where it has one."""
    return f"{kind}{'es' if kind.endswith('s') else 's'}" if kind in _COUNTED else kind


def window_of(certificate: Certificate) -> str:
    """Say up to which shifts alone a certificate passes; empty where up to all."""
    window = re.search(r"up to its place within a window of [^;]+", certificate.reason)
    return window[0] if window else ""


def certified(variant: str, group: str, of_group: Mapping[str, Certificate]) -> Iterator[str]:
    """What the certificates of one variant say; of several random draws the worst."""
    if not of_group:
        return
    failed = {w: c for w, c in of_group.items() if not c.passed}
    w, certificate = max((failed or of_group).items(), key=lambda item: _order(item[1].residual))
    who = f"{variant}, {short_name(w)} weights"
    if len(of_group) > 1:
        who = f"{variant}, {short_name(group)} weights ({len(of_group)} seeds)"
    if certificate.passed:
        window = window_of(certificate)
        yield (
            f"Certificate of {who}: passes{f' {window}' if window else ''}, equivariance "
            f"residual {certificate.residual:.1e} ≤ {certificate.threshold:.0e}."
        )
    elif parse_variant(variant).removes_padding:
        if math.isnan(certificate.residual) or certificate.residual <= certificate.threshold:
            yield (
                f"Certificate of {who}: fails ({certificate.reason}); "
                "position that this variant still shows is not ruled out to be padding's."
            )
        else:
            yield (
                f"Certificate of {who}: fails, equivariance residual "
                f"{certificate.residual:.1e}: {certificate.reason}. A source of position is left."
            )
    touching = [c for c in of_group.values() if c.contact]
    if touching:
        worst = max(touching, key=lambda c: _order(c.contact or 0.0))
        yield (
            f"Caution: on the canvas of {who} padding still reaches the probed region "
            f"(contact {worst.contact:.1e} at a margin of {worst.margin} pixels): "
            "some operation spans the whole image, or the margin is too small."
        )
    elif certificate.contact == 0:
        yield (
            f"Canvas of {who}: with a margin of {certificate.margin} pixels nothing that "
            "padding writes reaches the probed region."
        )


def _order(value: float) -> float:
    return math.inf if math.isnan(value) else value


def how(variant: str) -> str:
    """How a verdict names what a variant did."""
    names = {
        "original": "as trained",
        "circular": "without padding",
        "canvas": "on a canvas",
        "valid": "without padding (valid)",
        "no_pos_embed": "without position embeddings",
        "shuffled_pos_embed": "with shuffled position embeddings",
        "shifted_pos_embed": "with shifted position embeddings",
        "no_rel_bias": "without relative position biases",
        "circular_rel_bias": "with relative position biases around a torus",
        "no_rope": "without rotary position embeddings",
        "circular_rope": "with rotary position embeddings around a torus",
        "no_mask": "without attention masks",
        "no_coordinates": "without coordinates",
        "no_factor": "without position-dependent factors",
        "no_position": "without any source that can be taken away",
    }
    parts = variant.split("+")
    return " and ".join(names.get(part, f"with {part} padding") for part in parts)
