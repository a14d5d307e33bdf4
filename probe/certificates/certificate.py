r"""Certificates: a measured proof that a variant left no padding-made position behind.

On a torus a network without borders is translation equivariant: shifting a periodic image by a
multiple of every layer's stride shifts every feature map and changes nothing else. The residual

.. math:: \max_{layers} \frac{\|f(\mathrm{roll}\,x) - \mathrm{roll}\,f(x)\|_∞}{\|f(x)\|_∞}

is then rounding alone. Any source of position (padding, position embeddings, windows that do not
divide the shift) makes it large. It is measured in float64, where rounding is some 1e-14 and even
faint sources stand out, on a copy of the network; in float32 only where a network can't be
converted.

A certificate must be able to fail. Small factors (LayerScale at 1e-6) hide borders from the
layers that are looked at, so that any network would pass: the *contrast*, the residual of the
same weights with their own padding and other sources, has to be clear.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..variants.kinds import PADDING

THRESHOLD = 1e-8
"""Greatest residual that passes, measured in float64."""

SINGLE_THRESHOLD = 1e-4
"""Greatest residual that passes, measured in float32."""

NOTHING_PADS = "nothing pads"
"""What the reason of a certificate says of a network that pads nowhere."""

CONTRAST = 1e-4
"""Least residual of the original from which borders show."""


@dataclass(frozen=True)
class Certificate:
    """Equivariance of one backbone under one variant.

    Attributes
    ----------
    residual : float
        Greatest over the layers; NaN where it is not defined, see ``reason``.
    passed : bool
        Whether ``residual ≤ threshold``, none but padding is left of the known sources, and the
        contrast is clear, or nothing pads and windows are the one other source, or none is known.
    reason : str
        What that says, in words.
    layers : mapping of str to float
        Residual of each layer. ``output`` is what the network returns, if that is a map.
    shift : (int, int)
        In pixels, down and to the right.
    threshold : float
        :data:`THRESHOLD`, in float32 :data:`SINGLE_THRESHOLD`.
    contrast : float
        Residual of ``original`` on the same weights and images.
    sources : tuple of str
        Sources of position that the variant leaves in place, by kind and module.
    first_break : str or None
        The first module at whose output equivariance is broken.
    contact : float or None
        Of a canvas: how much of what padding writes reaches the probed region, 0 if nothing
        does; see :func:`probe.variants.padding_leakage`.
    margin : int
        Of a canvas, in pixels.
    silent : tuple of str
        Scales that are 0, which end branches that compute nothing: nothing is proven of these.
    image_size : (int, int)
        In pixels.
    precision : str
        ``float64`` or ``float32``.
    """

    residual: float
    passed: bool
    reason: str
    layers: Mapping[str, float] = field(default_factory=dict)
    shift: tuple[int, int] = (0, 0)
    threshold: float = THRESHOLD
    contrast: float = math.nan
    sources: tuple[str, ...] = ()
    first_break: str | None = None
    contact: float | None = None
    margin: int = 0
    silent: tuple[str, ...] = ()
    image_size: tuple[int, int] = (0, 0)
    precision: str = "float64"


def beside_padding(sources: Sequence[str]) -> bool:
    return any(not source.startswith(f"{PADDING}:") for source in sources)


def kinds(sources: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(source.partition(":")[0] for source in sources))
