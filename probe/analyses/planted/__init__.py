"""Synthetic ground truth: features with a known amount of position.

In: channels, signal-to-noise ratios, a seed.
Out: what readouts recover, beside what is there.
Not here: networks.

- ``truth``: synthetic features of known position information, to calibrate the pipeline by.
- ``recovery``: whether readouts recover that position in the right amount.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
