"""Readouts: heads that predict position from features.

In: features (N, C, h, w), image by image or as moments, and position maps.
Out: weights, predictions, and what each readout says of itself.
Not here: networks, images, scores of predictions.

- ``base``: heads that predict position targets from a layer's features.
- ``spec``: which readouts there are, and which of them a run takes.
- ``moments``: all that a ridge readout of any position target needs to know of a layer.
- ``ridge``: ridge regression from position moments, regularised by cross-validation.
- ``posenet``: the readout of the published protocol, trained by gradient descent.
- ``softmax``: classification of the cells of a grid.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
