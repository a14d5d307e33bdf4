"""Scores: how well a map was predicted, and how sure that is.

In: predictions and true maps, as arrays.
Out: scores for each image, intervals, tidy tables, patterns of mean maps.
Not here: networks, readouts, sentences, pictures.

- ``metrics``: scores of a readout on each test image; intervals over test images, of means, of
  paired differences and of shares.
- ``intervals``: bootstrap intervals over scenes.
- ``tables``: from predictions on test images to rows with intervals, chance levels and
  differences.
- ``patterns``: the position-information pattern of a layer: what its features are at each place on
  average.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
