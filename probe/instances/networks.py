"""The network of the experiment: one small architecture, and where its position comes from."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..borders.fills import extend
from ..coordconv.layers import CoordConv2d
from ..errors import one_of
from .names import BORDERS
from .scenes import CLASSES


class SegmentationNetwork(nn.Module):
    r"""A fully convolutional network with two heads: an embedding and a class for every pixel.

    .. math:: h_0 = W_0 ∗ x,\qquad h_k = h_{k-1} + W_k ∗_{d_k} \max(h_{k-1}, 0)

    with 3 × 3 convolutions of dilation :math:`d_k`, and both heads are 1 × 1 convolutions of
    :math:`\max(h, 0)`. Nothing is strided, pooled or normalised: a pixel of the output depends on
    those of the image at most ``reach`` away each way, and on where it is only by the border.

    Parameters
    ----------
    borders : str
        One of :data:`BORDERS`.
    channels, dimensions, classes : int
        Of every hidden map, of the embedding, of the semantic head.
    dilations : sequence of int
        Of each convolution, the first included.
    seed : int
        Same seed, same weights for every border; ``coordconv`` adds its own.
    """

    def __init__(
        self,
        borders: str,
        *,
        channels: int = 16,
        dimensions: int = 8,
        dilations: tuple[int, ...] = (1, 2, 4, 8, 4, 2),
        classes: int = len(CLASSES),
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.borders = one_of(borders, BORDERS, "border")
        self.reach = sum(dilations)
        mode = borders if borders in ("zeros", "reflect") else "circular"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layers = [
                _convolution(3 if k == 0 else channels, channels, dilation, mode)
                for k, dilation in enumerate(dilations)
            ]
            self.embedding = nn.Conv2d(channels, dimensions, 1)
            self.semantic = nn.Conv2d(channels, classes, 1)
            if borders == "coordconv":
                layers[0] = _with_coordinates(layers[0])
        self.layers = nn.ModuleList(layers)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return embedding (B, D, H, W) and class scores (B, C, H, W) of images (B, 3, H, W)."""
        h = images - 0.5
        if self.borders == "canvas":
            h = extend(h, dict.fromkeys((-2, -1), (self.reach, self.reach)), "circular")
        for k, layer in enumerate(self.layers):
            assert isinstance(layer, nn.Conv2d)
            h = self._convolve(layer, h) if k == 0 else self._residual(layer, h)
        h = F.relu(h)
        return self.embedding(h), self.semantic(h)

    def _residual(self, layer: nn.Conv2d, h: Tensor) -> Tensor:
        new = self._convolve(layer, F.relu(h))
        cut = (h.shape[-1] - new.shape[-1]) // 2
        if cut:
            h = h[..., cut:-cut, cut:-cut]
        return h + new

    def _convolve(self, layer: nn.Conv2d, h: Tensor) -> Tensor:
        if self.borders == "canvas":
            return F.conv2d(h, layer.weight, layer.bias, dilation=layer.dilation)
        return layer(h)


def _convolution(inputs: int, outputs: int, dilation: int, mode: Any) -> nn.Conv2d:
    conv = nn.Conv2d(inputs, outputs, 3, padding=dilation, dilation=dilation, padding_mode=mode)
    nn.init.kaiming_normal_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


def _with_coordinates(conv: nn.Conv2d) -> CoordConv2d:
    """The same convolution, given coordinates too."""
    options: dict[str, Any] = {"padding": conv.padding, "dilation": conv.dilation}
    new = CoordConv2d(conv.in_channels, conv.out_channels, 3, padding_mode="circular", **options)
    new.weight, new.bias = conv.weight, conv.bias
    nn.init.kaiming_normal_(new.coord_weight)
    return new
