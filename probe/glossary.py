"""What Probe's words mean: one source for the README, every page and ``probe glossary``."""

from __future__ import annotations

import re

GLOSSARY: dict[str, str] = {
    "backbone": "the network that is probed, with its weights as they are",
    "weights": "where its parameters come from: `pretrained`, `random`, or a file",
    "variant": "how the backbone is run: `original` as trained, or with a source of position "
    "removed",
    "border rule": "what a layer sees beyond the edge of its input; `circular` reads on at the "
    "opposite edge",
    "torus": "a surface without a border: what leaves the image on one side comes back on the "
    "other",
    "canvas": "a larger piece of the same picture, of which only the middle is probed, out of "
    "padding's reach",
    "stimuli": "the images that are shown",
    "leaves": "the usual stimuli, dead leaves: overlapping discs with the statistics of "
    "photographs, which look the same everywhere",
    "tileable": "of an image: it goes on across its own edges without a seam",
    "stationary": "of stimuli: no place looks different from another on average",
    "layer": "a module whose output is probed",
    "target": "a map over the image that depends on position alone: `horizontal`, `vertical`, "
    "`gaussian` (distance from the centre), two kinds of stripes",
    "readout": "the small model that predicts a target from a layer's features",
    "SPC": "Spearman correlation of predicted and true target over the places of an image: 0 "
    "chance, 1 perfect order",
    "localisation error": "median distance in pixels between predicted and true place",
    "control task": "a target with its places shuffled; selectivity is the score less that of the "
    "control task",
    "interval": "95 % bootstrap interval over scenes",
    "share": "of a source: how much of a score is lost when it is taken away, from 0 % to 100 %",
    "certificate": "a measured proof that a variant left no position behind: features shift with "
    "the image and change in nothing else",
    "residual": "how far features are from shifting with the image, 0 for exactly; a certificate "
    "passes where it is no more than rounding",
    "source of position": "anything through which place can enter: padding, position embeddings, "
    "relative biases, windows, …",
    "window": "a piece of the map that a network looks at on its own; the place within one remains "
    "when all else is gone",
    "profile": "how much features differ from one row to the next, on average: how far padding "
    "reaches into the image",
    "eraser": "what takes position out of a layer's features, made of their averages",
    "zoo": "a folder with the results of many networks, of which each cell is one network with its "
    "weights and options",
}
"""Words and what each means, in the order in which one meets them."""

RARE: tuple[str, ...] = (
    *("SPC", "torus", "canvas", "leaves", "tileable", "stationary", "readout", "border rule"),
    *("control task", "certificate", "residual", "eraser", "source of position"),
)
"""Words that nobody knows who has not met Probe."""


_FORMS = {"leaves": r"(\(|dead |on |of )leaves\b"}  # which is a verb, too


def used(text: str) -> dict[str, str]:
    """Return the words that a text uses, alone or in the plural, with their meanings."""
    plain = re.sub(r"<(style|script|svg)\b.*?</\1>|<[^>]*>", " ", text, flags=re.DOTALL)
    return {
        word: meaning
        for word, meaning in GLOSSARY.items()
        if re.search(_FORMS.get(word, rf"\b{re.escape(word)}s?\b"), plain, re.IGNORECASE)
    }
