"""Figures: one file for each kind of picture.

In: tidy tables and arrays.
Out: matplotlib figures and axes.
Not here: HTML.

- ``conditions``: how weights and variants look in every figure: colours, dashes, names.
- ``consistency``: what shifts below the stride change.
- ``depth``: scores by depth.
- ``maps``: predicted maps beside true ones, and mean maps of channels.
- ``profile``: error by distance to the border.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
