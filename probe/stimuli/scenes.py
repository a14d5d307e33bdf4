"""Which test images show the same scene, and the antithetic fours that chance cancels in."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .source import Stimuli, stretch

SHIFTS = 4
"""Test images of one scene, see :func:`antithetic_batch`."""


def scene_size(source: Stimuli) -> int:
    """Consecutive test images of one scene: :data:`SHIFTS` on a stationary torus, else 1."""
    return SHIFTS if source.tileable and source.stationary else 1


def scenes(source: Stimuli, count: int) -> NDArray[np.int64]:
    """Number the scenes that test images show: shifted copies of one, crops of one photograph.

    Parameters
    ----------
    source : Stimuli
        Whose test split :func:`antithetic_batch` took.
    count : int
        How many images.

    Returns
    -------
    ndarray of int, shape (count,)
    """
    return np.array([source.scene(index // scene_size(source)) for index in range(count)])


def antithetic_batch(
    source: Stimuli, start: int, stop: int, margin: int = 0, *, stride: int = 1
) -> Tensor:
    """Return test images ``start … stop − 1``, on a stationary torus in antithetic fours.

    There, images ``4 s … 4 s + 3`` are scene s of the source, shifted down and to the right by 0,
    ¼, ½ and ¾ of the torus. A shifted image is as likely as the original, so that no expectation
    changes; but what a readout takes for position in the content of a scene moves around with it
    and averages out, while position that comes with the place stays. That cuts the noise of the
    scores of a network without position to about a third.

    Parameters
    ----------
    source : Stimuli
        Whose test split to take.
    start, stop : int
        First image, and the one after the last.
    margin : int
        Pixels to show beyond each edge, see :meth:`Stimuli.batch`.
    stride : int
        Shifts are rounded to multiples of it where it divides the image's side into four parts
        or more: on these, an equivariant network's features move by whole places.

    Returns
    -------
    Tensor of float32, shape (stop − start, C, H + 2 margin, W + 2 margin), in [0, 1]
        In channels-last memory format.

    References
    ----------
    Hammersley, Morton (1956), "A new Monte Carlo technique: antithetic variates", Proc. Cambridge
    Phil. Soc. 52; Cranley, Patterson (1976), "Randomization of number theoretic methods for
    multiple integration", SIAM J. Numer. Anal. 13, for rotations of the torus.
    """
    size = scene_size(source)
    if size == 1:
        return source.batch("test", start, stop, margin)
    first = start // size
    scenes = source.batch("test", first, (stop - 1) // size + 1)
    images = torch.empty_like(scenes[:1].expand(stop - start, -1, -1, -1))
    images = images.contiguous(memory_format=torch.channels_last)
    for row, index in enumerate(range(start, stop)):
        moves = []
        for side in source.image_size:
            step = stride if side % stride == 0 and side // stride >= size else 1
            moves.append(round(index % size * side / step / size) * step)
        images[row] = torch.roll(scenes[index // size - first], moves, (1, 2))
    return stretch(images, margin)
