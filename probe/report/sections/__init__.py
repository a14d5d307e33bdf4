"""Sections of a report.

In: the data of a result.
Out: what a section's template needs.
Not here: the page around them.

- ``scores``: scores by layer, what padding gives, controls.
- ``erasure``: what ways of taking position out leave.
- ``patterns``: profiles by distance, mean maps of channels, signal to noise.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
