"""Convolutions that are told where they are (Liu et al. 2018, arXiv 1807.03247).

layer = AddCoords(), CoordConv2d(3, 8, 3), CoordConvTranspose2d(8, 3, 4, stride=2)
model = inflate(timm.create_model("resnet18", pretrained=True))
plain = deflate(model)
study = run_tasks(quick=True)

The command ``probe coordconv`` runs the coordinate tasks and writes their report.
"""

from .experiment import CoordConvStudy, run_tasks
from .inflation import deflate, inflate
from .layers import AddCoords, CoordConv2d, CoordConvTranspose2d, coordinates

__all__ = [
    "AddCoords",
    "CoordConv2d",
    "CoordConvStudy",
    "CoordConvTranspose2d",
    "coordinates",
    "deflate",
    "inflate",
    "run_tasks",
]
