"""Published tables, and the protocol that they were measured by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

COLUMNS = [
    *("table", "row", "model", "weights", "variant", "stimuli", "target", "metric"),
    *("published", "value", "low", "high", "status"),
]
"""Columns of a reproduction's table."""

MEASURED = "measured"
"""How the status of every row begins that has a value; of others it is the reason."""

PHOTOGRAPHS, LEAVES, PIXELS = "photographs", "leaves", "pixels"

TESTED: tuple[str, ...] = (PHOTOGRAPHS, "black", "white", "noise")
"""Images on which the paper tests, in its order."""

METRICS: tuple[str, ...] = ("spc", "mae")

_TABLE_1 = """
    horizontal          pixels     .012 .251   .0   .251  .0   .251  .001 .251
    horizontal          VGG16      .742 .149   .751 .164  .873 .157  .591 .173
    horizontal          ResNet152  .933 .084   .987 .080  .994 .078  .973 .077
    vertical            pixels     .131 .248   .0   .251  .0   .251  .053 .250
    vertical            VGG16      .816 .129   .846 .146  .927 .138  .771 .150
    vertical            ResNet152  .951 .083   .978 .069  .979 .072  .968 .074
    gaussian            pixels    -.001 .233   .0   .186  .0   .186 -.034 .214
    gaussian            VGG16      .814 .109   .842 .123  .898 .116  .762 .129
    gaussian            ResNet152  .936 .070   .953 .068  .964 .064  .971 .055
    horizontal_stripes  pixels    -.001 .712  -.055 .704  .0   .704  .023 .710
    horizontal_stripes  VGG16      .405 .556   .532 .583  .576 .574  .375 .573
    horizontal_stripes  ResNet152  .534 .528   .566 .518  .562 .515  .471 .530
    vertical_stripes    pixels     .006 .723   .081 .709  .081 .709  .018 .714
    vertical_stripes    VGG16      .374 .567   .538 .575  .437 .578  .526 .566
    vertical_stripes    ResNet152  .520 .537   .574 .523  .593 .514  .523 .545
"""  # SPC and MAE on each kind of images in TESTED

_TABLE_4 = """
    horizontal          pixels  original   .012 .251
    horizontal          VGG16   original   .742 .149
    horizontal          VGG16   valid      .381 .223
    gaussian            pixels  original  -.001 .233
    gaussian            VGG16   original   .814 .109
    gaussian            VGG16   valid      .359 .174
    horizontal_stripes  pixels  original  -.001 .712
    horizontal_stripes  VGG16   original   .405 .556
    horizontal_stripes  VGG16   valid      .011 .628
"""  # SPC and MAE on photographs


def published() -> pd.DataFrame:
    """Return the paper's figures that a reproduction stands beside.

    Returns
    -------
    DataFrame
        ``table`` (``1``, or ``padding`` for the paper's Table 4), ``row``, ``variant``,
        ``stimuli``, ``target``, ``metric`` and ``published``.

    Notes
    -----
    Not included are the paper's rows of a readout that is padded itself.

    References
    ----------
    Islam, Jia, Bruce (2020), arXiv 2001.08248, Tables 1 and 4.
    """
    columns = ["table", "row", "variant", "stimuli", "target", "metric", "published"]
    return pd.DataFrame(_published(), columns=columns)


def _published() -> Iterator[tuple[object, ...]]:
    for line in _TABLE_1.strip().splitlines():
        target, row, *numbers = line.split()
        cells = [(stimuli, metric) for stimuli in TESTED for metric in METRICS]
        for (stimuli, metric), number in zip(cells, numbers, strict=True):
            yield "1", row, "original", stimuli, target, metric, float(number)
    for line in _TABLE_4.strip().splitlines():
        target, row, variant, *numbers = line.split()
        for metric, number in zip(METRICS, numbers, strict=True):
            yield "padding", row, variant, PHOTOGRAPHS, target, metric, float(number)


_DIFFERENCES = {
    "earlier": "Measured by version 0.4.0 or before: images were normalised as the network's "
    "weights ask for, photographs were random crops flipped at random, scores were taken at the "
    "places of the readout, whose maps were upsampled with their corners aligned.",
    "leaves": "No photographs were given: readouts are trained on leaves, and black, white and "
    "noise images are read by these.",
    "photographs": "The paper trains on 10,533 photographs of DUT-S and tests on PASCAL-S; here "
    "the photographs of one folder are shared out between both.",
    "readout": "The readout is {readout}, not the paper's, and is scored at the places that it "
    "predicts, not at the pixels.",
    "size": "Images are of {size} pixels, the paper's of 224 × 224.",
    "noise": "Noise is Gaussian, of mean ½ and deviation ¼, clipped; the paper doesn't state them.",
    "stripes": "The MAE of stripes is on another scale. Here a constant scores 0.32; the paper's "
    "readouts that know nothing score 0.63 to 0.72, near the 2/π of a sinusoid in [−1, 1]. SPC is "
    "not concerned.",
    "stages": "Of timm's six stages of VGG16 the readout sees the first five, each before its "
    "pooling; the paper counts five, without saying where. Without padding, at 224 pixels, the "
    "deepest of them has 2 × 2 places.",
    "weights": "The networks' weights are timm's, those of torchvision where the paper's networks "
    "are meant.",
}


def differences(provenance: Mapping[str, Any]) -> list[str]:
    """Say what a reproduction has that differs from the paper, one point at a time.

    All else follows it and its authors' code: images in [0, 1] without normalisation, photographs
    resized without keeping their shape, features resized with their corners aligned and
    concatenated, PosENet from Xavier-uniform weights, its maps upsampled to the image without
    aligning corners, and scored there.
    """
    options = provenance["options"]
    agrees = {
        "earlier": "maps" in provenance,
        "leaves": provenance["trained_on"] == PHOTOGRAPHS,
        "photographs": provenance["trained_on"] == LEAVES,
        "readout": options["readout"] == "posenet",
        "size": list(options["image_size"]) == [224, 224],
    }
    absent = {key for key, same in agrees.items() if same}
    words = {"readout": options["readout"], "size": " × ".join(map(str, options["image_size"]))}
    return [text.format(**words) for key, text in _DIFFERENCES.items() if key not in absent]


NEEDS_IMAGES = "needs --images FOLDER"


@dataclass(frozen=True)
class Row:
    """A network of the tables.

    Attributes
    ----------
    name : str
        What the tables call it.
    model : str
        timm's name; empty for the pixels themselves.
    beside : str
        The paper's row that it stands beside, if any.
    valid : bool
        Whether it is measured without padding too.
    padding : bool
        Whether it has rows in the table about padding.
    layers : str or sequence of str
        What the readout sees.
    """

    name: str
    model: str
    beside: str
    valid: bool = True
    padding: bool = True
    layers: str | Sequence[str] = "stages"

    @property
    def variants(self) -> tuple[str, ...]:
        return ("original", "valid") if self.valid else ("original",)

    def cells(self, tested: Sequence[str]) -> Iterator[tuple[str, str, str]]:
        """Table, variant and stimuli of its rows."""
        for stimuli in tested:
            yield "1", "original", stimuli
        for variant in self.variants if self.padding else ():
            for stimuli in tested:
                if stimuli in (PHOTOGRAPHS, LEAVES):
                    yield "padding", variant, stimuli


_VGG16_LAYERS = tuple(f"features.{n}" for n in (3, 8, 15, 22, 29))  # before each pooling

PIXEL_ROWS = Row(PIXELS, "", PIXELS, valid=False, layers="0")

PUBLISHED_ROWS = (
    PIXEL_ROWS,
    Row("VGG16", "vgg16.tv_in1k", "VGG16", layers=_VGG16_LAYERS),
    Row("ResNet152", "resnet152.tv_in1k", "ResNet152", valid=False, padding=False),
)
