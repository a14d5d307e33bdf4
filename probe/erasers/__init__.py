"""Erasers: taking position out of features, and measuring what is left.

In: a network, or features; position moments of its layers.
Out: modules that map features to features; what is left, what else changed.
Not here: pages and figures.

- ``closed``: closed forms from moments.
- ``moments``: moments and mean maps by fold.
- ``eraser``: the modules.
- ``fit``: from moments to erasers, and the estimator.
- ``inside``: erasers inside a network.
- ``evaluate``: what readouts find before and after, and what else changed.
- ``content``: what a place's own patch shows.
- ``matching``: two crops of one picture at a known shift.
- ``erase``: one pass over images, all erasers.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
