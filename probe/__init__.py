"""Which layers of a pretrained network know where they are, and how much comes from padding?

    result = probe.run("tf_efficientnet_lite0")
    result.table, result.maps, result.certificates
    result.plot_layers(), result.plot_maps(), result.to_html("report.html")
    probe.certify("resnet18", "circular"), probe.sources("resnet18"), probe.survey("resnet*")
    probe.attribute("resnet18", "layer4", "vertical"), probe.calibrate("resnet18")
    probe.reproduce("islam2020", images="photographs")
    probe.ladder("resnet18"), probe.coordconv.inflate(model), probe.instances.run_instances()

The command ``probe run`` does the same and writes reports.
"""

from . import coordconv, instances
from .attribution import Attribution, attribute
from .backbones import Backbone, available, load_backbone
from .borders import padding
from .calibration import Calibration, calibrate
from .certificates import Certificate, certify, sources
from .errors import ProbeError, ProbeWarning
from .ladders import Ladder, ladder
from .reproduction import Reproduction, reproduce
from .results import Result, load
from .runner import run
from .stimuli import Stimuli
from .surveys import survey
from .targets import TARGETS
from .variants import VARIANTS

__version__ = "0.4.0"

__all__ = [
    "TARGETS",
    "VARIANTS",
    "Attribution",
    "Backbone",
    "Calibration",
    "Certificate",
    "Ladder",
    "ProbeError",
    "ProbeWarning",
    "Reproduction",
    "Result",
    "Stimuli",
    "attribute",
    "available",
    "calibrate",
    "certify",
    "coordconv",
    "instances",
    "ladder",
    "load",
    "load_backbone",
    "padding",
    "reproduce",
    "run",
    "sources",
    "survey",
]
