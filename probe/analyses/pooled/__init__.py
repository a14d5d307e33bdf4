"""Pooled: what the pooled vector of a layer still tells of the place of a patch.

In: a model and a layer.
Out: how often the place is read, channels ranked, what ablating them does, a page.
Not here: position in maps, which the rest of Probe measures.

- ``pooled``: patches on a canvas, vectors, a table.
- ``reading``: places read from vectors, channels ranked and ablated.
- ``page``: figure and page.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
