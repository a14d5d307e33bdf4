"""Which readouts there are, and which of them a run takes; nothing here needs torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from ..registry import Registry

if TYPE_CHECKING:
    from .base import Readout

READOUTS: Registry[type[Readout]] = Registry(
    "readout",
    {
        "ridge": (
            "probe.readouts.ridge:Ridge",
            "a linear readout at each place, regularised by cross-validation over images",
        ),
        "posenet": (
            "probe.readouts.posenet:PoseNet",
            "the published protocol, trained by gradient descent on all layers together",
        ),
        "softmax": ("probe.readouts.softmax:Softmax", "classification of the cells of a grid"),
    },
)
"""Classes of readouts by name.

One more is a class of :class:`~probe.readouts.Readout`, put here under its name:
``READOUTS["mine"] = MyReadout``.
"""


@dataclass(frozen=True)
class ReadoutSpec:
    """Readout kind, kernel, and per-layer or concatenated input.

    ``kernel`` and ``concat`` are by default what the kind of readout declares. ``params`` is what
    else it is made with.
    """

    readout: str = "ridge"
    kernel: int = cast(int, None)
    concat: bool = cast(bool, None)
    seed: int = 0
    progress: bool = False
    params: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if self.kernel is None:
            object.__setattr__(self, "kernel", self.kind.kernels[0])
        if self.concat is None:
            object.__setattr__(self, "concat", self.kind.concat)

    @property
    def kind(self) -> type[Readout]:
        """The class of the readout."""
        return READOUTS.find(self.readout)

    @property
    def label(self) -> str:
        """What tables call it."""
        usual = self.kernel == self.kind.kernels[0]
        return self.readout if usual else f"{self.readout}(kernel={self.kernel})"

    @property
    def gridded(self) -> bool:
        """Whether layers are resized to the common grid."""
        return self.concat or self.kind.gridded

    def make(self) -> Readout:
        """Return a readout that has seen nothing yet."""
        usual = {"kernel": self.kernel, "seed": self.seed, "progress": self.progress}
        return self.kind.make(**{**usual, **self.params})

    def record(self) -> dict[str, Any]:
        """Return what a saved run keeps of it, so that it can be read where there is none."""
        return {
            "label": self.label,
            "kernel": self.kernel,
            "gridded": self.gridded,
            "words": self.kind.describe(self.kernel),
        }


def readout_record(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return :meth:`ReadoutSpec.record` of a run; folders of 0.4.0 have the options alone."""
    options = provenance["options"]
    spec = (options["readout"], options.get("kernel"), bool(options.get("concat")))
    return provenance.get("readout") or ReadoutSpec(*spec).record()
