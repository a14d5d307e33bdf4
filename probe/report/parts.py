"""Parts that all pages are made of: templates, pictures and figures that carry their own data."""

from __future__ import annotations

import base64
import html as escape
import io
import re
from functools import cache
from importlib.resources import files
from typing import Any

import matplotlib
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from ..certificates.certificate import Certificate
from ..files import png_bytes
from ..glossary import RARE, used
from ..text import interval, short_name
from .style import CMAP, PAGE, style


@cache
def templates() -> Environment:
    """Templates of all pages; every name they show is escaped."""
    environment = Environment(
        loader=PackageLoader("probe.report", "templates"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["interval"] = lambda row: interval(row["value"], row["low"], row["high"])
    environment.filters["words"] = lambda text: str(text).replace("_", " ")
    environment.filters["glossary"] = used
    environment.filters["linked"] = _linked
    environment.filters["short"] = lambda text: short_name(str(text))
    return environment


def _linked(body: Markup, words: dict[str, str]) -> Markup:
    """Link, below a page's heading, the rarer words that it uses to what they mean."""
    links = Markup(", ").join(
        Markup('<a href="#word-{}">{}</a>').format(word.replace(" ", "-").lower(), word)
        for word in words
        if word in RARE
    )
    line = Markup('</h1>\n<p class="soft screen">What is meant by {}?</p>').format(links)
    return Markup(str(body).replace("</h1>", line, 1)) if links else body


@cache
def vendored(name: str) -> Markup:
    """A library that is shipped with Probe, as it stands within a page; see ``report/vendor``."""
    return Markup((files("probe.report") / "vendor" / name).read_text(encoding="utf-8"))


def certified(variant: str, certificate: Certificate) -> Markup:
    """Whether a variant is free of position, red where it should be and nothing says why not."""
    if certificate.passed:
        return Markup('<span class="pass">yes</span>')
    expected = variant == "original" or certificate.sources
    return Markup("no" if expected else '<span class="fail">not certified</span>')


def png(values: NDArray[Any], colours: str = CMAP) -> Markup:
    """A map in [0, 1] as the address of a picture that carries its own data."""
    finite = np.clip(np.nan_to_num(np.asarray(values, np.float64)), 0, 1)
    return picture(matplotlib.colormaps[colours](finite, bytes=True)[..., :3])


def picture(pixels: NDArray[np.uint8]) -> Markup:
    """A picture, shape (h, w, 3 or 4), as an address that carries its own data."""
    return Markup("data:image/png;base64," + base64.b64encode(png_bytes(pixels)).decode())


def legend_entry(label: str, colour: str, dashes: Any = "-", marker: str = "") -> dict[str, str]:
    """An entry of the legend that a page draws itself, once for several figures."""
    roles = {value: f"var(--{role})" for role, value in PAGE.items()}
    return {
        "label": label,
        "colour": roles.get(colour, colour),
        "dashes": "none" if dashes == "-" else " ".join(str(1.5 * d) for d in dashes[1]),
        "marker": marker,
    }


def slim(text: str) -> str:
    """The same SVG in fewer bytes: coordinates to a tenth, pictures of 256 colours at most."""
    rounded = re.compile(r"-?\d+\.\d+")

    def short(match: re.Match[str]) -> str:
        return rounded.sub(lambda n: f"{float(n[0]):.1f}".removesuffix(".0"), match[0])

    text = re.sub(r"(?<=data:image/png;base64,)[^\"]*", lambda m: _in_palette(m[0]), text)
    text = re.sub(r'\b(?:d|x|y|transform)="[^"]*"', short, text)
    text = re.sub(r' transform="rotate\(-0 [^"]*\)"', "", text)
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # what is referred to has another element
    text = re.sub(r'(?<= d=")[^"]*', lambda m: " ".join(m[0].split()), text)
    families = set(re.findall(r"font-family: [^;\"]*", text))
    if len(families) == 1:
        (family,) = families
        text = re.sub(rf";? ?{re.escape(family)}", "", text)
        text = text.replace("<svg ", f'<svg font-family="{family.partition(": ")[2]}" ', 1)
    return re.sub(r">\s+<", "><", text)


def _in_palette(encoded: str) -> str:
    """A PNG in base64 with a palette in place of colours, where that is shorter."""
    picture = Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGBA")
    file = io.BytesIO()
    picture.quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(
        file, "PNG", optimize=True
    )
    return min(encoded, base64.b64encode(file.getvalue()).decode(), key=len)


def svg(figure: Figure, name: str, label: str) -> Markup:
    """A figure as an inline SVG element, with identifiers of its own."""
    file = io.StringIO()
    with style(always=True), matplotlib.rc_context({"svg.hashsalt": name, "svg.id": name}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    text = slim(text)
    text = re.sub(r'(?<=\sid=")(?=[^"]+")', f"{name}-", text)
    text = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{name}-", text)
    widest = round(1.4 * 72 * figure.get_figwidth())  # pixels, for text no larger than the page's
    text = re.sub(
        r'<svg ([^>]*?)width="[^"]*"', rf'<svg style="max-width: {widest}px" \1', text, count=1
    )
    text = re.sub(r'<svg ([^>]*?)height="[^"]*"', r"<svg \1", text, count=1)
    for role, colour in PAGE.items():  # the page has its own in the dark
        text = text.replace(colour, f"var(--{role})")
    label = escape.escape(label, quote=True)
    return Markup(text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1))
