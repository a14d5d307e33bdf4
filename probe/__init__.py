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

import lazy_loader

from ._version import __version__ as __version__

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
