"""Inflation: the convolutions of any network become CoordConv, and its outputs stay.

The weights of the coordinates start at 0, with which a CoordConv layer is the convolution it was
made from (Liu et al. 2018, arXiv 1807.03247, section 3). Training moves them.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import timm.layers
from torch import Tensor, nn

from ..backbones.choice import glob
from ..errors import ProbeError, ProbeWarning, did_you_mean
from .layers import CoordConv2d, CoordConvTranspose2d, CoordinateTerm


class _SameTerm(CoordinateTerm):
    """Where the padding depends on the size of the map, as TensorFlow's ``SAME`` does."""

    def _convolve(self, places: Tensor) -> Tensor:
        if getattr(self, "same_pad", True):  # which Conv2dSame is without saying so
            sides: Any = (self.kernel_size, self.stride, self.dilation)
            places = timm.layers.pad_same(places, *sides)
        return super()._convolve(places)


class CoordConv2dSame(_SameTerm, timm.layers.Conv2dSame):
    """timm's ``Conv2dSame`` over a map and its coordinates."""


class CoordStdConv2d(CoordinateTerm, timm.layers.StdConv2d):
    """timm's ``StdConv2d`` over a map and its coordinates, whose weights are not standardised."""


class CoordStdConv2dSame(_SameTerm, timm.layers.StdConv2dSame):
    """timm's ``StdConv2dSame`` over a map and its coordinates; see :class:`CoordStdConv2d`."""


class CoordScaledStdConv2d(CoordinateTerm, timm.layers.ScaledStdConv2d):
    """timm's ``ScaledStdConv2d`` over a map and its coordinates; see :class:`CoordStdConv2d`."""


class CoordScaledStdConv2dSame(_SameTerm, timm.layers.ScaledStdConv2dSame):
    """timm's ``ScaledStdConv2dSame`` over a map and coordinates; see :class:`CoordStdConv2d`."""


_INFLATED: dict[type[nn.Module], type[CoordinateTerm]] = {
    nn.Conv2d: CoordConv2d,
    nn.ConvTranspose2d: CoordConvTranspose2d,
    timm.layers.Conv2dSame: CoordConv2dSame,
    timm.layers.StdConv2d: CoordStdConv2d,
    timm.layers.StdConv2dSame: CoordStdConv2dSame,
    timm.layers.ScaledStdConv2d: CoordScaledStdConv2d,
    timm.layers.ScaledStdConv2dSame: CoordScaledStdConv2dSame,
}

_PLAIN = {inflated: plain for plain, inflated in _INFLATED.items()}


def inflate(
    model: nn.Module, at: str | Sequence[str] = "stem", *, radius: bool = False
) -> nn.Module:
    """Turn chosen convolutions of a copy of a network into CoordConv, at no change of its outputs.

    Parameters
    ----------
    model : Module
        Any network, such as one of timm's; it stays as it is.
    at : str or sequence of str
        Which convolutions: ``stem`` (those that see the image, as timm's config names them, else
        the first one of 3 channels, else the first one), ``convs`` (every ``nn.Conv2d`` and
        ``nn.ConvTranspose2d``, which timm's ``CondConv2d`` is not), names of modules,
        or globs over the names of convolutions: ``*`` within one dotted part of a name, ``**``
        across parts.
    radius : bool
        Whether to give them the distance to the centre too.

    Returns
    -------
    Module
        A deep copy in the same mode, dtype, device and memory format. Each chosen convolution has
        a parameter ``coord_weight`` more, of zeros that require gradients; outputs are
        bit-identical to those of ``model``, and everything else trains, or does not, as it did.

    Raises
    ------
    ProbeError
        If a name matches nothing, or a chosen module is no convolution over a map, is a CoordConv
        already, or is of a class that is not known here and may compute something else.

    Notes
    -----
    The coordinates of a single place are 0: a convolution that comes after global pooling gets
    weights that nothing moves. What replaces or fuses convolutions afterwards (timm's
    ``reparameterize_model`` for one) knows nothing of coordinates and loses them.

    Examples
    --------
    >>> inflate(timm.create_model("resnet18", pretrained=True)).conv1
    CoordConv2d(3, 64, kernel_size=(7, 7), stride=(2, 2), padding=(3, 3), bias=False, radius=False)
    """
    modules = dict(model.named_modules())
    patterns = at if isinstance(at, Sequence) and not isinstance(at, str) else [at]
    if not patterns or not all(isinstance(pattern, str) for pattern in patterns):
        raise ProbeError(f"at: expected stem, convs, or names of modules, got {at!r}")
    names = dict.fromkeys(name for pattern in patterns for name in _choose(pattern, model, modules))
    for name in names:
        _check(name, modules[name])
    model = copy.deepcopy(model)
    modules = dict(model.named_modules())
    for name in names:
        modules[name].__class__ = _INFLATED[type(modules[name])]
        modules[name].add_coordinates(radius)
    return model


def deflate(model: nn.Module) -> nn.Module:
    """Take the coordinates out of a copy of a network again, the inverse of :func:`inflate`.

    Classes and keys of the state dict are those from before inflating. Where weights of coordinates
    are not 0 the outputs change, and a :class:`~probe.ProbeWarning` names the layers.
    """
    model = copy.deepcopy(model)
    inflated = {n: m for n, m in model.named_modules() if isinstance(m, CoordinateTerm)}
    if not inflated:
        raise ProbeError(f"{type(model).__name__} has no CoordConv layers; nothing to deflate")
    for name, module in inflated.items():
        if type(module) not in _PLAIN:
            raise ProbeError(
                f"module {name!r} is a {type(module).__name__}: expected one of "
                f"{', '.join(c.__name__ for c in _PLAIN)}, whose plain class is known"
            )
    lost = [name for name, module in inflated.items() if bool(module.coord_weight.any())]
    for module in inflated.values():
        del module.coord_weight, module.radius
        module.__class__ = _PLAIN[type(module)]  # type: ignore[assignment]
    if lost:
        more = f" and {len(lost) - 8} more" if len(lost) > 8 else ""
        warnings.warn(
            f"coordinates had weights other than 0, so that outputs change, in "
            f"{', '.join(lost[:8])}{more}",
            ProbeWarning,
            stacklevel=2,
        )
    return model


def _choose(pattern: str, model: nn.Module, modules: Mapping[str, nn.Module]) -> list[str]:
    """Names of the modules that a word, name or glob stands for."""
    label = type(model).__name__
    convolutions = [n for n, m in modules.items() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    if not convolutions:
        raise ProbeError(f"{label} has no two-dimensional convolution to inflate")
    if pattern == "stem":
        return _stem(model, modules, convolutions)
    if pattern == "convs":
        return convolutions
    if pattern in modules:
        return [pattern]
    expression = glob(pattern)
    matching = [name for name in convolutions if expression.fullmatch(name)]
    if not matching:
        known = ", ".join(convolutions[:12]) + (", …" if len(convolutions) > 12 else "")
        raise ProbeError(
            f"no convolution of {label} matches {pattern!r}: expected stem, convs, or names or "
            f"globs among {known}.{did_you_mean(pattern, modules, 0.7)}"
        )
    return matching


def _stem(
    model: nn.Module, modules: Mapping[str, nn.Module], convolutions: Sequence[str]
) -> list[str]:
    """Names of the convolutions that see the image."""
    config = getattr(model, "pretrained_cfg", None) or {}
    first = config.get("first_conv") or ()
    first = [first] if isinstance(first, str) else list(first)
    if first and set(first) <= set(convolutions):
        return first
    colour = (name for name in convolutions if modules[name].in_channels == 3)
    return [next(colour, convolutions[0])]


def _check(name: str, module: nn.Module) -> None:
    kind = type(module)
    if kind in _INFLATED:
        return
    known = ", ".join(c.__name__ for c in _INFLATED)
    if isinstance(module, CoordinateTerm):
        raise ProbeError(f"module {name!r} is a {kind.__name__} already; deflate the model first")
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        raise ProbeError(
            f"module {name!r} is a {kind.__module__}.{kind.__name__}, which may compute something "
            f"else than a convolution: expected exactly one of {known}"
        )
    inside = [n for n, m in module.named_modules(prefix=name) if type(m) in _INFLATED]
    hint = f"; the convolutions in it are {', '.join(inside[:8])}" if inside else ""
    raise ProbeError(f"module {name!r} is a {kind.__name__}: expected one of {known}{hint}")
