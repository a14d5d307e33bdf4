"""What a place's own patch of the image shows, and how well features tell it."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ..backbones.layer import Layer

CONTENT: dict[str, slice] = {"mean colour": slice(0, 3), "orientation": slice(3, 5)}
"""What is read of each patch, and its channels in what :func:`content_maps` returns."""

_ALPHAS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


def content_maps(images: Tensor, layer: Layer) -> Tensor:
    """Return mean colour and dominant orientation of each place's own patch, shape (B, 5, h, w).

    The orientation is ``(cos 2θ, sin 2θ)`` of the structure tensor, times its coherence.

    Parameters
    ----------
    images : Tensor, shape (B, 3, H, W)
        In [0, 1].
    layer : Layer
        Whose places are meant.
    """
    rows, columns = (torch.from_numpy(w).to(images) for w in (layer.rows, layer.columns))
    grey = F.pad(images.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    across = (grey[..., 1:-1, 2:] - grey[..., 1:-1, :-2]) / 2
    down = (grey[..., 2:, 1:-1] - grey[..., :-2, 1:-1]) / 2
    products = torch.cat([images, across**2 - down**2, 2 * across * down, across**2 + down**2], 1)
    means = rows @ products @ columns.T
    return torch.cat([means[:, :3], means[:, 3:5] / (means[:, 5:] + 1e-6)], 1)


def content_errors(
    train: Tensor, train_content: Tensor, test: Tensor, test_content: Tensor
) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Read content from features (B, C, h, w) linearly, at each place alone.

    The regularisation is chosen on the last quarter of the training images.

    Returns
    -------
    dict
        For each of :data:`CONTENT` the squared error of each test image, and that of the mean.
    """
    first = max(1, 3 * len(train) // 4)
    parts = (train[:first], train_content[:first]), (train[first:], train_content[first:])
    held_out = [float(np.sum(_errors(*parts[0], *parts[1], alpha)[0])) for alpha in _ALPHAS]
    alpha = _ALPHAS[int(np.argmin(held_out))]
    errors, blind = _errors(train, train_content, test, test_content, alpha)
    return {name: (errors[:, s].sum(1), blind[:, s].sum(1)) for name, s in CONTENT.items()}


def _errors(
    train: Tensor, train_content: Tensor, test: Tensor, test_content: Tensor, alpha: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    x, y, new, wanted = (
        t.permute(0, 2, 3, 1).flatten(0, 2).double()
        for t in (train, train_content, test, test_content)
    )
    mean, scale = x.mean(0), x.std(0)
    scale = torch.where(scale > 1e-9 * scale.max(), scale, torch.inf)
    x, new = (x - mean) / scale, (new - mean) / scale
    gram = x.T @ x / len(x) + alpha * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    weights = torch.linalg.solve(gram, x.T @ (y - y.mean(0)) / len(x))
    spread = y.var(0).clamp(min=1e-12)
    squares = (
        (new @ weights + y.mean(0) - wanted) ** 2 / spread,
        (wanted - y.mean(0)) ** 2 / spread,
    )
    by_image = [s.unflatten(0, (len(test), -1)).sum(1).cpu().numpy() for s in squares]
    return by_image[0], by_image[1]
