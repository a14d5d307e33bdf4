"""Reproductions: published tables, measured beside published.

In: the name of a paper, and photographs.
Out: published and measured rows, side by side.
Not here: new measurements.

- ``published``: published tables, and the protocol that they were measured by.
- ``reproduction``: figures of a paper, and the same measured here, side by side.
- ``page``: tables, measured beside published.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
