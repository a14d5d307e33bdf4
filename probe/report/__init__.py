"""Reports: figures and pages from tables and arrays.

In: tidy tables, maps, sentences.
Out: matplotlib figures and self-contained HTML.
Not here: the objects that people hold, networks, files of results.

- ``style``: colours, names of axes, labels that fit.
- ``page``: the report of one result, and its short form for notebooks.
- ``index``: the index over a folder of results.
- ``parts``: parts that all pages are made of: templates, pictures and figures that carry their own
  data.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
