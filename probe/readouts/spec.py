"""Which readouts there are, and which of them a run takes; nothing here needs torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from ..errors import ProbeError
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


def readout_kind(readout: str | Readout) -> type[Readout]:
    """Return the class of a readout, by its name or of an instance.

    Raises
    ------
    ProbeError
        If there is none of this name, or it is something else.
    """
    if isinstance(readout, str):
        return READOUTS.find(readout)
    needed = ("partial_fit", "solve", "predict", "get_params", "kernels")
    if isinstance(readout, type) or not all(hasattr(readout, name) for name in needed):
        raise ProbeError(
            f"readout: expected {', '.join(READOUTS)} or an instance of a class of "
            f"probe.readouts.Readout, got {readout!r}"
        )
    return type(readout)


@dataclass(frozen=True)
class ReadoutSpec:
    """Readout kind, kernel, and per-layer or concatenated input.

    ``kernel`` and ``concat`` are by default what the kind of readout declares. ``params`` is what
    else it is made with.
    """

    readout: str | Readout = "ridge"
    kernel: int = cast(int, None)
    concat: bool = cast(bool, None)
    seed: int = 0
    progress: bool = False
    params: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if self.kernel is None:
            given = not isinstance(self.readout, str) and self.readout.kernel
            object.__setattr__(self, "kernel", given or self.kind.kernels[0])
        if self.concat is None:
            object.__setattr__(self, "concat", self.kind.concat)

    @property
    def kind(self) -> type[Readout]:
        """The class of the readout."""
        return readout_kind(self.readout)

    @property
    def label(self) -> str:
        """What tables call it."""
        if not isinstance(self.readout, str):
            return repr(self.readout)
        usual = self.kernel == self.kind.kernels[0]
        return self.readout if usual else f"{self.readout}(kernel={self.kernel})"

    @property
    def gridded(self) -> bool:
        """Whether layers are resized to the common grid."""
        return self.concat or self.kind.gridded

    def make(self) -> Readout:
        """Return a readout that has seen nothing yet."""
        if not isinstance(self.readout, str):
            return type(self.readout)(**self.readout.get_params())
        usual = {"kernel": self.kernel, "seed": self.seed, "progress": self.progress}
        return self.kind.make(**{**usual, **self.params})

    def record(self) -> dict[str, Any]:
        """Return what a saved run keeps of it, so that it can be read where there is none."""
        return {
            "name": self.kind.name,
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
