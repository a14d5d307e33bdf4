"""Stimuli: the images fed to a backbone, each a function of a seed and an index alone.

Every source can make any image of its train and its test split on its own, in any order, so that
a run streams images and never holds them. A source says whether its images are *tileable*
(periodic, so that a border joins the opposite one without a seam) and *stationary* (of the same
statistics at every pixel, so that they carry no position themselves).
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..borders.fills import extend
from ..errors import ProbeError, one_of

SPLITS: tuple[str, ...] = ("train", "test", "certificate")
"""Splits of a source: streams of images that have none in common."""

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey, of ITU-R BT.601, as in Pillow."""


class Stimuli(ABC):
    """A seeded source of images of one size.

    Parameters
    ----------
    image_size : (int, int)
        Height H and width W in pixels.
    seed : int
        The same seed gives the same images, bit for bit.

    Attributes
    ----------
    name : str
        What reports call it.
    channels : int
        Of its images, see :meth:`with_channels`.
    paints_channels : bool
        Whether it paints any number of channels; otherwise red, green and blue, and grey of these.
    tileable, stationary : bool
        See the module's text.
    margin : int
        Extra pixels available beyond each edge; ignored for tileable stimuli.
    scenes : int
        Number of distinct test scenes.
    skipped : list of str
        Files that could not be read.
    """

    name: str
    channels: int = 3
    paints_channels: ClassVar[bool] = False
    tileable: bool
    stationary: bool
    margin: int = 0
    scenes: int = 2**62

    def __init__(self, image_size: tuple[int, int], seed: int = 0) -> None:
        self.image_size = (int(image_size[0]), int(image_size[1]))
        self.seed = seed
        self.skipped: list[str] = []

    @property
    def untested(self) -> str:
        """Why scores on the test split are no test of what was fitted; empty where they are one."""
        first = (self.batch(split, 0, 1) for split in ("train", "test"))
        return "train and test images are the same" if torch.equal(*first) else ""

    @property
    def cautions(self) -> list[str]:
        """What a reader of results on these images should know, in sentences."""
        return []

    def with_channels(self, channels: int) -> Self:
        """Return the same source with images of so many channels.

        Raises
        ------
        ProbeError
            If it can't make them.
        """
        if channels == self.channels:
            return self
        # What makes its batches itself is not made grey here.
        grey = (self.channels, channels) == (3, 1) and type(self).batch is Stimuli.batch
        if not self.paints_channels and not grey:
            raise ProbeError(
                f"stimuli {self.name}: the network takes {channels}-channel images, but these have "
                f"{self.channels} channels; use leaves, noise, pink or a tensor "
                f"(N, {channels}, H, W)"
            )
        other = copy.copy(self)
        other.channels = channels
        return other

    def batch(self, split: str, start: int, stop: int, margin: int = 0) -> Tensor:
        """Return images ``start … stop − 1`` of a split.

        Parameters
        ----------
        split : str
            One of :data:`SPLITS`.
        start, stop : int
            First image, and the one after the last.
        margin : int
            Pixels to show beyond each edge: of tileable images their continuation.

        Returns
        -------
        Tensor of float32, shape (stop − start, C, H + 2 margin, W + 2 margin), in [0, 1]
            In channels-last memory format.

        Raises
        ------
        ProbeError
            If the source has no such margin.
        """
        one_of(split, SPLITS, "split")
        if margin > self.margin and not self.tileable:
            raise ProbeError(
                f"stimuli {self.name}: a margin of {margin} pixels was asked for, but only "
                f"{self.margin} pixels are there beyond the edges; use tileable stimuli such as "
                "leaves, photographs, or larger images"
            )
        height, width = (side + 2 * self.margin for side in self.image_size)
        grey = self.channels == 1 and not self.paints_channels
        layers = 4 if grey or self.channels == 3 else self.channels
        images = np.zeros((stop - start, height, width, layers), np.uint8)
        for row, index in enumerate(range(start, stop)):
            self.paint(split, index, images[row])
        x = torch.from_numpy(images).to(torch.float32).div_(255)
        x = x[..., :3] @ x.new_tensor(LUMA)[:, None] if grey else x[..., : self.channels]
        x = x.permute(0, 3, 1, 2)
        return stretch(x.contiguous(memory_format=torch.channels_last), margin - self.margin)

    def picture(self, images: int = 4, side: int = 96) -> NDArray[np.uint8]:
        """Return the first train images beside each other, small.

        Parameters
        ----------
        images : int
            How many.
        side : int
            Greatest height or width of each in pixels.

        Returns
        -------
        ndarray of uint8, shape (h, w, 4)
            Red, green, blue and alpha, transparent between the images; what has neither one nor
            three channels is shown as their mean.
        """
        scale = min(1.0, side / max(self.image_size))
        height, width = (max(1, round(scale * pixels)) for pixels in self.image_size)
        shown = np.zeros((height, images * (width + 4) - 4, 4), np.uint8)
        for number, x in enumerate(self.batch("train", 0, images)):
            x = x if len(x) == 3 else x.mean(0, keepdim=True).expand(3, -1, -1)
            pixels = (x.permute(1, 2, 0).clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
            small = Image.fromarray(pixels).resize((width, height), Image.Resampling.BOX)
            left = number * (width + 4)
            shown[:, left : left + width] = np.asarray(small.convert("RGBA"))
        return shown

    @abstractmethod
    def paint(self, split: str, index: int, canvas: NDArray[np.uint8]) -> None:
        """Write one image, with the source's margin, into a canvas.

        Of shape (H, W, 4), the last layer spare, for images of three channels; of shape (H, W, C)
        for others, where the source paints them.
        """

    def scene(self, index: int) -> int:
        """Number of the scene that a test image shows."""
        return index % self.scenes

    def rng(self, split: str, index: int) -> np.random.Generator:
        """Random numbers of one image: independent of every other image's."""
        stream = (SPLITS.index(split) << 48) + index
        return np.random.Generator(np.random.Philox(key=[self.seed % 2**64, stream]))


def stretch(images: Tensor, margin: int) -> Tensor:
    """Show more of periodic images, by so many pixels at each edge; less if negative.

    Parameters
    ----------
    images : Tensor, shape (B, C, H, W)
        A torus each.
    margin : int
        In pixels.

    Returns
    -------
    Tensor, shape (B, C, H + 2 margin, W + 2 margin)
    """
    return extend(images, {-2: (margin, margin), -1: (margin, margin)}, "circular")
