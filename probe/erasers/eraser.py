"""Erasers: modules that take position out of a layer's features."""

from __future__ import annotations

import copy
import math
import warnings
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ProbeError, ProbeWarning
from ..text import number_text
from .evaluate import Evaluation, evaluate
from .inside import attached


class Eraser(nn.Module):
    """Takes position out of features, whatever their layout.

    Called on ``(B, C, H, W)``, ``(B, H, W, C)``, tokens ``(B, L, C)`` with prefix tokens, which
    stay as they are, or the layout of the layer it was made for.

    Parameters
    ----------
    how : str
        ``mean``, ``project`` or ``constant``.
    channels, height, width : int
        Of the map it was fitted to.
    layout : str
        A letter for each axis, as of :class:`~probe.backbones.Layer`.
    prefix, suffix : int
        Tokens before and after those of the places.
    order : tuple of int
        Which token stands for each place, row by row; empty if they are in this order.

    Attributes
    ----------
    record : dict
        What it removed and from what: ``how``, ``layer``, ``model``, ``targets``, ``rank``,
        ``share`` (of the variance), ``chance`` (that what it found is no position), ``images``.
    """

    def __init__(
        self,
        how: str,
        channels: int,
        height: int,
        width: int,
        layout: str = "NCHW",
        prefix: int = 0,
        suffix: int = 0,
        order: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        self.channels, self.height, self.width = channels, height, width
        self.layout, self.prefix, self.suffix, self.order = layout, prefix, suffix, tuple(order)
        self.record: dict[str, Any] = {"how": how}

    @property
    def how(self) -> str:
        """How it was made: ``mean``, ``project`` or ``constant``."""
        return str(self.record["how"])

    def on(self, layout: str, prefix: int = 0, suffix: int = 0) -> Self:
        """Return a copy for features of another layout, such as ``NHWC`` or ``NLC``."""
        if sorted(layout) not in (sorted("NCHW"), sorted("NLC")):
            raise ProbeError(
                f"layout: expected the letters of NCHW or of NLC in some order, got {layout!r}"
            )
        eraser = copy.deepcopy(self)
        eraser.layout, eraser.prefix, eraser.suffix, eraser.order = layout, prefix, suffix, ()
        return eraser

    def fits(self, x: Tensor) -> bool:
        """Whether it takes features of this shape, in the layout it was made for."""
        layout = self.layout
        return x.ndim == len(layout) and x.shape[layout.index("C")] == self.channels

    def attach(self, model: nn.Module, layer: str | None = None) -> nn.Module:
        """Return a copy of a network with this built in after a layer, by default its own.

        It becomes a submodule of the layer; all other names stay, and ``model`` as it is.

        Raises
        ------
        ProbeError
            If there is no such layer.
        """
        layer = layer or self.record.get("layer")
        if layer is None:
            raise ProbeError("layer: the eraser was fitted to features; say after which it stands")
        return attached(model, layer, self)

    def evaluate(
        self, model: str | nn.Module | None = None, layer: str | None = None, **options: Any
    ) -> Evaluation:
        """Measure on fresh images what is left of position, and what else changed.

        Every readout is fitted anew to the layer's features as they are and to erased ones:
        ``ridge`` with kernels 1 and 3, ``softmax``, ``posenet``. What no linear eraser can take,
        such as variances and neighbourhoods, shows there.

        Parameters
        ----------
        model : str or Module, optional
            By default the timm model that it was made of.
        layer : str, optional
            By default the one that it was made for.
        **options
            Of :func:`probe.run`: ``stimuli``, ``train_images`` (256), ``test_images`` (256),
            ``targets``, ``weights``, ``seed``, … Images are by default of another seed than those
            that it was fitted to. ``readers``, pairs of a readout and its kernel.

        Raises
        ------
        ProbeError
            If the network or the layer is not known.
        """
        record = self.record
        layer = layer or record.get("layer")
        if model is None and record.get("weights") not in (None, "given"):
            model = record["model"]
            options = {"weights": record["weights"]} | options
        if model is None or layer is None:
            raise ProbeError("model, layer: the eraser was not made of a timm name; give both")
        known: dict[str, Any] = {"seed": record.get("seed", 0) + 1, "drawn": record.get("seed")}
        if record.get("image_size"):
            known["image_size"] = record["image_size"]
        return evaluate({"after": self}, model, layer, **(known | options))

    def _layout_of(self, x: Tensor) -> str:
        """The layout of features: that it was made for where it fits."""
        for layout in (self.layout, "NCHW", "NHWC", "NLC"):
            if x.ndim == len(layout) and x.shape[layout.index("C")] == self.channels:
                return layout
        raise ProbeError(
            f"features: the eraser takes {self.channels} channels, as {self.layout}, (B, C, H, W), "
            f"(B, H, W, C) or (B, L, C), got shape {tuple(x.shape)}"
        )

    def summary(self) -> str:
        """Say in a sentence what it removes."""
        record = self.record
        where = f" at {record['layer']}" if record.get("layer") else ""
        if not record.get("rank"):
            return (
                f"{self.how}{where}: no position was found (p = "
                f"{number_text(record.get('chance', 1.0))}), features stay as they are"
            )
        return (
            f"{self.how}{where}: rank {record['rank']} of {self.channels}, "
            f"{100 * record['share']:.1f} % of the variance"
        )

    def extra_repr(self) -> str:
        return f"{self.channels}, {self.height}, {self.width}, {self.layout!r}; {self.summary()}"


class MeanEraser(Eraser):
    """Subtracts the mean map and adds its mean: ``f(p) − M(p) + M̄``.

    For maps of another size it is resampled, which is an approximation and is warned of. It is a
    shift for each place, so that applying it twice shifts twice; a second one, fitted to erased
    features, finds nothing.
    """

    offset: Tensor

    def __init__(self, offset: Tensor, **layout: Any) -> None:
        """``offset`` is the map (C, h, w) to subtract."""
        super().__init__("mean", *offset.shape, **layout)
        self.register_buffer("offset", offset.to(torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        layout = self._layout_of(x)
        letters = layout.replace("N", "")
        if "H" in layout:
            offset = self._sized(x.shape[layout.index("H")], x.shape[layout.index("W")])
            offset = offset.permute(["CHW".index(letter) for letter in letters])
        else:
            places = letters.replace("C", "")
            sizes = [x.shape[layout.index(letter)] for letter in places]
            tokens = self._tokens(math.prod(sizes)).unflatten(0, sizes)
            offset = tokens.movedim(-1, letters.index("C"))
        return x - offset.to(x).unsqueeze(layout.index("N"))

    def _sized(self, height: int, width: int) -> Tensor:
        if (height, width) == (self.height, self.width):
            return self.offset
        if not torch.compiler.is_compiling():
            warnings.warn(
                f"the mean map of {self.height} × {self.width} cells is resampled to {height} × "
                f"{width}, which is an approximation; how='project' holds for any size",
                ProbeWarning,
                stacklevel=5,
            )
        map_ = self.offset[None]
        return F.interpolate(map_, (height, width), mode="bilinear", antialias=True)[0]

    def _tokens(self, count: int) -> Tensor:
        """The map as tokens (L, C), nothing at those of no place."""
        places = count - self.prefix - self.suffix
        height, width = self.height, self.width
        if places != height * width:
            height = round(math.sqrt(max(places, 0) * self.height / self.width))
            width = places // max(height, 1)
            if places < 1 or height * width != places or self.order:
                raise ProbeError(
                    f"features: expected {self.height} × {self.width} places between {self.prefix} "
                    f"prefix and {self.suffix} suffix tokens, got {count} tokens; "
                    "eraser.on('NLC', prefix=…) says how many lead"
                )
        tokens = self._sized(height, width).flatten(1).T
        if self.order:
            tokens = tokens[torch.tensor(self.order, device=tokens.device).argsort()]
        ends = [tokens.new_zeros(n, self.channels) for n in (self.prefix, self.suffix)]
        return torch.cat([ends[0], tokens, ends[1]]) if self.prefix or self.suffix else tokens


class ProjectEraser(Eraser):
    """One affine map for all places: ``x − left right (x − mean)``; any size, no place index.

    Applied twice it changes nothing more.
    """

    left: Tensor
    right: Tensor
    shift: Tensor

    def __init__(
        self,
        left: Tensor,
        right: Tensor,
        mean: Tensor,
        height: int,
        width: int,
        how: str = "project",
        **layout: Any,
    ) -> None:
        """``left`` (C, r), ``right`` (r, C) and ``mean`` (C,); ``how`` they were found."""
        super().__init__(how, len(left), height, width, **layout)
        self.register_buffer("left", left.to(torch.float32))
        self.register_buffer("right", right.to(torch.float32))
        self.register_buffer("shift", (left @ (right @ mean)).to(torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        layout = self._layout_of(x)
        if self.left.shape[1] == 0:
            return x
        left, right, shift = (t.to(x) for t in (self.left, self.right, self.shift))
        if layout == "NCHW":
            change = left @ (right @ x.flatten(2)) - shift[:, None]
            return x - change.view_as(x) if change.is_contiguous() else x - change.reshape(x.shape)
        axis = layout.index("C")
        features = x.movedim(axis, -1)
        change = (features @ right.T) @ left.T - shift
        if "H" not in layout and (self.prefix or self.suffix):
            tokens = layout.replace("C", "").index("L")
            count = change.shape[tokens]
            inner = change.narrow(tokens, self.prefix, count - self.prefix - self.suffix)
            ends = [
                torch.zeros_like(change.narrow(tokens, 0, n)) for n in (self.prefix, self.suffix)
            ]
            change = torch.cat([ends[0], inner, ends[1]], tokens)
        return x - change.movedim(-1, axis)
