"""The networks of the coordinate tasks: plain ones as in the paper, and CoordConv."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import torch
from torch import Tensor, nn

from .layers import coordinates
from .tasks import SIDE


class Painter(nn.Module):
    r"""CoordConv from a position to a score of every pixel.

    The position is tiled over the canvas, coordinates are added, and 1 × 1 convolutions to 32, 32,
    64, 64, 1 and 1 channels follow, a ReLU after each of the first four: 7,555 parameters. A 1 × 1
    convolution is a matrix product, and the first one separates:
    :math:`W [x, y, i, j] + b = W_{xy} [x, y] + (W_{ij} [i, j] + b)`, of which the second part is
    the same for all positions.

    References
    ----------
    Liu et al. (2018), arXiv 1807.03247, section 4.1. There is no ReLU after the layers of one
    channel, which stops training where its input is negative everywhere.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 32)
        widths = (32, 32, 64, 64, 1, 1)
        self.rest = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    def forward(self, position: Tensor) -> Tensor:
        """Scores (B, 64, 64) of positions (B, 2)."""
        weight = self.first.weight
        places = coordinates(SIDE, SIDE, dtype=weight.dtype, device=weight.device)
        canvas = places.flatten(1).T @ weight[:, 2:].T + self.first.bias
        h = ((position @ weight[:, :2].T)[:, None] + canvas).relu_()
        for layer in self.rest[:3]:
            h = layer(h).relu_()
        return self.rest[4](self.rest[3](h)).unflatten(1, (SIDE, SIDE))[..., 0]


class Finder(nn.Module):
    """CoordConv from a one-hot picture to its position.

    Coordinates are added, 1 × 1 convolutions to 16, 16, 16, 16 and 2 channels follow, and the sum
    of the greatest and the least value over the canvas: 914 parameters. It is linear up to these,
    which suffices: a pixel that is on stands out from all others, above or below, and brings its
    coordinates.

    References
    ----------
    Liu et al. (2018), arXiv 1807.03247, section 4.2, whose network has 3 × 3 convolutions last and
    the greatest value alone, which leaves a channel untrained where the pixel lies below others.
    """

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        widths = (3, channels, channels, channels, channels, 2)
        self.layers = nn.Sequential(*(nn.Linear(a, b) for a, b in pairwise(widths)))

    def forward(self, picture: Tensor) -> Tensor:
        """Positions (B, 2) of pictures (B, 1, 64, 64)."""
        places = coordinates(*picture.shape[2:], dtype=picture.dtype, device=picture.device)
        x = torch.cat([picture, places.expand(len(picture), -1, -1, -1)], 1)
        values = self.layers(x.flatten(2).transpose(1, 2))
        return values.amax(1) + values.amin(1)


class PlainPainter(nn.Module):
    """Deconvolution from a position to a score of every pixel.

    The position is a map of one place with two channels; six transposed convolutions of kernel 4
    and stride 2 double its sides to 64, batch norm and a ReLU after each but the last. Channels are
    ``width`` times 4, 4, 4, 2, 2 and then 1.

    A stride marks positions by itself: the outputs of a transposed convolution differ by their
    phase, so that this network is not equivariant even on a torus. On one place circular padding
    repeats it without end, and so does a map without padding that is large enough: under both the
    network is the same function.

    References
    ----------
    Liu et al. (2018), arXiv 1807.03247, section 4.1: "strided, fractionally upsampling
    convolutions" from 1 × 1 to 64 × 64.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        widths = (2, 4 * width, 4 * width, 4 * width, 2 * width, 2 * width)
        layers = (nn.ConvTranspose2d(a, b, 4, 2, 1, bias=False) for a, b in pairwise(widths))
        self.layers = _normed(layers).append(nn.ConvTranspose2d(widths[-1], 1, 4, 2, 1))

    def forward(self, position: Tensor) -> Tensor:
        """Scores (B, 64, 64) of positions (B, 2)."""
        return self.layers(position[:, :, None, None])[:, 0]


class PlainFinder(nn.Module):
    """Strided convolution from a one-hot picture to its position.

    3 × 3 convolutions, three of stride 2 and two of stride 1, batch norm and a ReLU after each, the
    mean over what is left of the canvas, and a linear layer. Without a border the mean is the same
    wherever the pixel is, up to its place within a stride of 8.

    References
    ----------
    Liu et al. (2018), arXiv 1807.03247, section 4.2: strided convolutions and global pooling.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        widths = (1, width, *[2 * width] * 4)
        steps = zip(pairwise(widths), (2, 2, 2, 1, 1), strict=True)
        layers = (nn.Conv2d(a, b, 3, stride, 1, bias=False) for (a, b), stride in steps)
        self.layers = _normed(layers)
        self.head = nn.Linear(2 * width, 2)

    def forward(self, picture: Tensor) -> Tensor:
        """Positions (B, 2) of pictures (B, 1, 64, 64)."""
        return self.head(self.layers(picture).mean((2, 3)))


def _normed(convolutions: Iterable[nn.Conv2d | nn.ConvTranspose2d]) -> nn.Sequential:
    """Convolutions, batch norm and a ReLU after each."""
    layers: list[nn.Module] = []
    for layer in convolutions:
        layers += [layer, nn.BatchNorm2d(layer.out_channels), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def build_network(task: str, network: str, width: int, seed: int) -> nn.Module:
    """Build the network of a task with seeded weights, torch's own initialisation."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if network == "coordconv":
            return Finder() if task == "regression" else Painter()
        return PlainFinder(width) if task == "regression" else PlainPainter(width)
