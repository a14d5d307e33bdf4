"""Images that the caller gives."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ProbeError, one_of
from .source import SPLITS, Stimuli, stretch


class Given(Stimuli):
    """Images from a tensor: the first for training, the next for testing.

    Parameters
    ----------
    images : Tensor, shape (N, C, H, W), in [0, 1]
    train_images, test_images : int
        How many a run takes; together at most N.
    image_size : (int, int), optional
        Height and width in pixels of what is probed, the middle of the images: what lies around
        it is their margin. All by default.

    Raises
    ------
    ProbeError
        If the tensor has another shape, values outside [0, 1], or too few images.
    """

    name = "tensor"
    tileable = False
    stationary = False
    _untested = ""

    def __init__(
        self,
        images: Tensor,
        *,
        train_images: int = 256,
        test_images: int = 64,
        image_size: tuple[int, int] | None = None,
    ) -> None:
        images = images.detach()
        if images.ndim != 4 or images.shape[3] <= 4 < images.shape[1]:
            raise ProbeError(
                f"stimuli: expected a tensor (N, C, H, W), got shape {tuple(images.shape)}"
            )
        needed = train_images + test_images
        if len(images) < needed:
            raise ProbeError(
                f"stimuli: {train_images} train and {test_images} test images need {needed}, "
                f"but the tensor holds {len(images)}"
            )
        if images.dtype == torch.uint8:
            images = images / 255
        if not images.is_floating_point() or images.layout != torch.strided or images.is_meta:
            raise ProbeError(
                f"stimuli: expected a dense tensor of floating-point values in [0, 1], got "
                f"{images.dtype}, {images.layout}, on {images.device}"
            )
        if 0 in images.shape:
            raise ProbeError(f"stimuli: images of no pixels, shape {tuple(images.shape)}")
        # Of a tensor on disk or larger than memory only what is used is looked at.
        low, high = (float(v) for v in torch.aminmax(images[:needed]))
        if not (low >= 0 and high <= 1):
            raise ProbeError(
                f"stimuli: expected values in [0, 1], got {low:.3g} … {high:.3g}; "
                "pass images before normalisation, Probe normalises them itself"
            )
        whole = (int(images.shape[2]), int(images.shape[3]))
        super().__init__(image_size or whole)
        around = [w - side for w, side in zip(whole, self.image_size, strict=True)]
        if around[0] != around[1] or around[0] < 0 or around[0] % 2:
            raise ProbeError(
                f"stimuli: expected images of {self.image_size[0]} × {self.image_size[1]} pixels, "
                f"or with the same margin on all sides, got {whole[0]} × {whole[1]}"
            )
        self.channels = int(images.shape[1])
        self.margin = around[0] // 2
        self._images = images
        self._start = {"train": 0, "test": train_images, "certificate": 0}
        self.scenes = max(test_images, 1)
        fitted, tested = self._images[:train_images], self._images[train_images:needed]
        if all(any(torch.equal(image, other) for other in fitted) for image in tested):
            self.scenes = 1
            self._untested = "train and test images are the same"

    @property
    def untested(self) -> str:
        return self._untested

    def batch(self, split: str, start: int, stop: int, margin: int = 0) -> Tensor:
        first = self._start[one_of(split, SPLITS, "split")]
        if margin > self.margin:
            raise ProbeError(
                f"stimuli: a margin of {margin} pixels was asked for, but the tensor's images "
                f"show only {self.margin} beyond the {self.image_size[0]} × {self.image_size[1]} "
                "pixels that are probed; pass larger images and image_size, or tileable stimuli"
            )
        part = stretch(self._images[first + start : first + stop], margin - self.margin)
        return part.to(torch.float32).contiguous(memory_format=torch.channels_last)

    def paint(self, split: str, index: int, canvas: NDArray[np.uint8]) -> None:
        pixels = self.batch(split, index, index + 1, self.margin)[0].permute(1, 2, 0).cpu().numpy()
        canvas[..., :3] = np.rint(pixels * 255)
