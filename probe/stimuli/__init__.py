"""Stimuli: the images that networks are shown.

In: a name, a folder or a tensor; a size and a seed.
Out: batches (B, C, H, W) in [0, 1], any part of them alone and always the same.
Not here: normalisation, networks, targets.

- ``source``: the images fed to a backbone, each a function of a seed and an index alone.
- ``leaves``: the statistics of natural images, and no position at all.
- ``noise``: noise of several kinds, and images of one colour.
- ``photos``: a folder of photographs.
- ``given``: images that the caller gives.
- ``scenes``: which test images show the same scene, and the antithetic fours that chance cancels
  in.
- ``opening``: from a name, a folder or a tensor to a stimulus source.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
