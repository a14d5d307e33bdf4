"""Erasure: the ways of taking position out of one layer, side by side.

In: a model and a layer.
Out: erasers, what is left, matching tables, pictures, a page.
Not here: the closed forms and the tests themselves.

- ``erasure``: all ways, measured on the same images.
- ``pictures``: patch similarity and principal components as colours.
- ``page``: the page.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
