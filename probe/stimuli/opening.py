"""From a name, a folder or a tensor to a stimulus source."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import ProbeError, one_of
from .catalogue import STIMULI
from .given import Given
from .photos import Photos
from .source import Stimuli


def open_stimuli(
    stimuli: str | Path | Tensor | Stimuli,
    image_size: tuple[int, int],
    seed: int = 0,
    *,
    train_images: int = 256,
    test_images: int = 64,
    margin: int = 0,
    channels: int | None = None,
) -> Stimuli:
    """Return the source that a name, a folder or a tensor stands for.

    Parameters
    ----------
    stimuli : str, Path, Tensor, ndarray or Stimuli
        One of :data:`STIMULI`, a folder of photographs, images (N, C, H, W) in [0, 1], or a
        source of one's own.
    image_size : (int, int)
        Height and width in pixels.
    seed : int
        Seed of the images.
    train_images, test_images : int
        How many images the run takes of each split.
    margin : int
        Pixels beyond each edge that the run asks for.
    channels : int, optional
        Of the images, see :meth:`Stimuli.with_channels`; by default those they have, mostly 3.

    Raises
    ------
    ProbeError
        If there is no such source, or its images can't be of this size or these channels.
    """
    source = _open(stimuli, image_size, seed, train_images, test_images, margin)
    return source if channels is None else source.with_channels(channels)


def _open(
    stimuli: str | Path | Tensor | Stimuli,
    image_size: tuple[int, int],
    seed: int,
    train_images: int,
    test_images: int,
    margin: int,
) -> Stimuli:
    if isinstance(stimuli, np.ndarray):
        stimuli = torch.from_numpy(stimuli)
    if isinstance(stimuli, Tensor):
        shares = {"train_images": train_images, "test_images": test_images}
        stimuli = Given(stimuli, **shares, image_size=(image_size[0], image_size[1]))
    if isinstance(stimuli, Stimuli):
        if stimuli.image_size != tuple(image_size):
            raise ProbeError(
                f"stimuli: expected images of {image_size[0]} × {image_size[1]} pixels, "
                f"got {stimuli.image_size[0]} × {stimuli.image_size[1]}"
            )
        return stimuli
    if not isinstance(stimuli, str | Path) or not str(stimuli).strip():
        got = repr(stimuli) if isinstance(stimuli, str) else f"a {type(stimuli).__name__}"
        raise ProbeError(
            f"stimuli: expected one of {', '.join(STIMULI)}, a folder of photographs or a tensor "
            f"(N, C, H, W), got {got}"
        )
    if str(stimuli) in STIMULI:
        return STIMULI[str(stimuli)](image_size, seed)
    if isinstance(stimuli, str) and not _looks_like_path(stimuli):
        one_of(stimuli, STIMULI, "stimuli (no folder has this name either)")
    shares = {"train_images": train_images, "test_images": test_images}
    return Photos(stimuli, image_size, seed, **shares, margin=margin)


def _looks_like_path(text: str) -> bool:
    if "/" in text or "\\" in text or text[:1] in ".~":
        return True
    try:
        return Path(text).exists()
    except OSError:
        return False
