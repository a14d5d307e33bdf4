"""Layers that give coordinates to a convolution.

A convolution over a map with two more channels, the coordinates :math:`i` (row) and :math:`j`
(column), is

.. math:: W ∗ [x, i, j] + b = W_x ∗ x + b + W_c ∗ [i, j].

The second term does not depend on the image. :class:`CoordConv2d` keeps :math:`W_x` and
:math:`W_c` apart and adds it, so that with :math:`W_c = 0` it is the plain convolution bit by bit;
:class:`AddCoords` writes the channels out, for whatever comes after it.

References
----------
Liu, Lehman, Molino, Such, Frank, Sergeev, Yosinski (2018), An intriguing failing of convolutional
neural networks and the CoordConv solution, arXiv 1807.03247, section 3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ProbeError

_Pair = int | tuple[int, int]


def coordinates(
    height: int,
    width: int,
    radius: bool = False,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    r"""Return the coordinates of every place of a map: row, column and, if asked for, the radius.

    Cell :math:`k` of :math:`n` lies at :math:`(2k - (n - 1)) / (n - 1)`: at exactly −1 and 1 at the
    ends, and at 0 where :math:`n = 1`. The radius is :math:`r = \sqrt{i^2 + j^2}`, from 0 at the
    centre to :math:`\sqrt 2` in the corners. Shape (2 or 3, height, width); computed in float32 at
    least and then rounded to ``dtype``, torch's default one if not given.
    """
    dtype = dtype or torch.get_default_dtype()
    if not dtype.is_floating_point:
        raise ProbeError(
            f"coordinates are fractions between -1 and 1: expected a floating-point dtype, got "
            f"{dtype}; convert the images first"
        )
    fine = torch.promote_types(dtype, torch.float32)
    i, j = (_axis(n, fine, device) for n in (height, width))
    places = [i[:, None].expand(height, width), j.expand(height, width)]
    if radius:
        places.append((i[:, None] ** 2 + j**2).sqrt())
    return torch.stack(places).to(dtype)


def append_coordinates(x: Tensor, radius: bool = False) -> Tensor:
    """What :class:`AddCoords` does, as a function."""
    height, width = x.shape[-2:]
    places = coordinates(height, width, radius, dtype=x.dtype, device=x.device)
    out = torch.cat([x, places.expand(*x.shape[:-3], -1, -1, -1)], -3)
    if _channels_last(x):  # which torch.cat can't tell with the expanded coordinates
        out = out.contiguous(memory_format=torch.channels_last)
    return out


# A symbolic trace can't look at sizes and dtypes.
torch.fx.wrap("coordinates")

torch.fx.wrap("append_coordinates")


def _axis(cells: int, dtype: torch.dtype, device: torch.device | str | None) -> Tensor:
    """Coordinates along one axis; sizes that an exporter keeps open stay open."""
    k = torch.arange(cells, dtype=dtype, device=device)
    return (k - k.flip(0)) / k[-1:].clamp(min=1)


def _channels_last(x: Tensor) -> bool:
    """Whether a tensor is in this memory format and in no other."""
    if x.ndim != 4 or x.is_contiguous():
        return False
    return x.is_contiguous(memory_format=torch.channels_last)


class AddCoords(nn.Module):
    """Append the coordinates of every place to a map, as channels; see :func:`coordinates`.

    Shapes ``(B, C, H, W)`` → ``(B, C + 2, H, W)``, with the radius ``(B, C + 3, H, W)``; without a
    batch ``(C, H, W)`` → ``(C + 2, H, W)``. The memory format is kept.

    References
    ----------
    Liu et al. (2018), arXiv 1807.03247, section 3 and figure 3.
    """

    def __init__(self, radius: bool = False) -> None:
        super().__init__()
        self.radius = radius

    def forward(self, x: Tensor) -> Tensor:
        return append_coordinates(x, self.radius)

    def extra_repr(self) -> str:
        return f"radius={self.radius}"


if TYPE_CHECKING:
    _Convolution = nn.Conv2d  # what it goes before
else:
    _Convolution = object


class CoordinateTerm(_Convolution):
    """Adds ``W_c ∗ coordinates`` to what a convolution returns; goes before its class.

    ``coord_weight`` is :math:`W_c`, dense: groups are for the channels of the map.
    """

    coord_weight: nn.Parameter
    radius: bool

    def __init__(self, *args: Any, radius: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.add_coordinates(radius)
        self.reset_parameters()

    def add_coordinates(self, radius: bool) -> None:
        """Give the convolution a ``coord_weight`` of zeros, like its ``weight`` in all else."""
        layout = torch.channels_last if _channels_last(self.weight) else torch.contiguous_format
        shape = self._coord_shape(3 if radius else 2)
        zeros = torch.zeros(shape, dtype=self.weight.dtype, device=self.weight.device)
        self.radius = radius
        self.coord_weight = nn.Parameter(zeros.contiguous(memory_format=layout))

    def reset_parameters(self) -> None:
        """Draw all weights as the plain layer would with the coordinates among its channels."""
        super().reset_parameters()
        if hasattr(self, "coord_weight"):  # the plain layer's own constructor resets it too
            bound = 1 / math.sqrt(self._fan_in())
            for parameter in (self.weight, self.coord_weight, self.bias):
                if parameter is not None:
                    nn.init.uniform_(parameter, -bound, bound)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + self._convolve(self._places(input)).squeeze(0)

    def coordinate_part(self, height: int, width: int) -> Tensor:
        """Return what is added over a map of this size, shape (1, out_channels, H', W')."""
        return self._convolve(self._places(self.weight.new_empty(1, 1, height, width)))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, radius={self.radius}"

    def _places(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2], x.shape[-1]
        places = coordinates(height, width, self.radius, dtype=x.dtype, device=x.device)
        # A sum, because torch's inductor can't order the strides of a view where sizes are open.
        return places.new_zeros(1, 1, 1, 1) + places

    def _convolve(self, places: Tensor) -> Tensor:
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            borders = self._reversed_padding_repeated_twice
            places, padding = F.pad(places, borders, mode=self.padding_mode), 0
        return F.conv2d(places, self.coord_weight, None, self.stride, padding, self.dilation)

    def _coord_shape(self, count: int) -> tuple[int, ...]:
        return (self.out_channels, count, *self.kernel_size)

    def _fan_in(self) -> int:
        return (self.weight.shape[1] + self.coord_weight.shape[1]) * math.prod(self.kernel_size)


class CoordConv2d(CoordinateTerm, nn.Conv2d):
    r"""A convolution over a map and the coordinates of its places.

    .. math:: y = W_x ∗ x + b + W_c ∗ [i, j], \quad\text{with the radius}\; [i, j, r]

    which is :class:`AddCoords` and a convolution with the weight :math:`[W_x, W_c]`. Coordinates
    are padded, and strided over, as the map is. It is an ``nn.Conv2d`` with its arguments and
    parameters (``in_channels`` are those of the map alone); ``coord_weight`` (out_channels, 2 or 3,
    kernel height, kernel width) comes on top, dense also where ``groups`` > 1. All are drawn with
    the fan-in of all channels. A plain layer's checkpoint loads with ``strict=False``.

    References
    ----------
    Liu et al. (2018), arXiv 1807.03247, section 3.

    Examples
    --------
    >>> CoordConv2d(3, 8, kernel_size=3, padding=1)(torch.rand(1, 3, 20, 30)).shape
    torch.Size([1, 8, 20, 30])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: _Pair,
        stride: _Pair = 1,
        padding: str | _Pair = 0,
        dilation: _Pair = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        radius: bool = False,
    ) -> None:
        shape = in_channels, out_channels, kernel_size, stride, padding, dilation
        super().__init__(*shape, groups, bias, padding_mode, device, dtype, radius=radius)


class CoordConvTranspose2d(CoordinateTerm, nn.ConvTranspose2d):
    """A transposed convolution over a map and the coordinates of its places.

    It is :class:`AddCoords` and an ``nn.ConvTranspose2d``, as :class:`CoordConv2d` is for
    ``nn.Conv2d``: coordinates are those of the places of the input, and ``coord_weight`` has the
    shape (2 or 3, out_channels, kernel height, kernel width).

    References
    ----------
    Liu et al. (2018), arXiv 1807.03247, section 3.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: _Pair,
        stride: _Pair = 1,
        padding: _Pair = 0,
        output_padding: _Pair = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: _Pair = 1,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        radius: bool = False,
    ) -> None:
        shape = in_channels, out_channels, kernel_size, stride, padding, output_padding
        super().__init__(*shape, groups, bias, dilation, padding_mode, device, dtype, radius=radius)

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        wanted: Any = output_size
        y = nn.ConvTranspose2d.forward(self, input, wanted)
        sides: Any = (self.stride, self.padding, self.kernel_size, 2, self.dilation)
        added = self._output_padding(input, wanted, *sides)
        return y + self._convolve(self._places(input), added).squeeze(0)

    def _convolve(self, places: Tensor, added: Sequence[int] | int = 0) -> Tensor:
        padding: Any = self.padding
        return F.conv_transpose2d(
            places, self.coord_weight, None, self.stride, padding, added, 1, self.dilation
        )

    def _coord_shape(self, count: int) -> tuple[int, ...]:
        return (count, self.out_channels, *self.kernel_size)

    def _fan_in(self) -> int:
        # torch takes the second dimension for the channels of the input here too.
        return self.weight.shape[1] * math.prod(self.kernel_size)
