"""Convolutions that are told where they are (Liu et al. 2018, arXiv 1807.03247).

layer = AddCoords(), CoordConv2d(3, 8, 3), CoordConvTranspose2d(8, 3, 4, stride=2)
model = inflate(timm.create_model("resnet18", pretrained=True))
plain = deflate(model)
study = run_tasks(quick=True)

The command ``probe coordconv`` runs the coordinate tasks and writes their report.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
