"""The runner: images through every weights × variant, in two passes.

In: options.
Out: features into readouts, predictions into rows.
Not here: what an analysis makes of the rows, files, pages.

- ``options``: what a run can be asked, checked in one place.
- ``job``: what all weights × variants of a run have in common, and each of them on its way.
- ``passes``: training images into readouts, test images through them.
- ``rows``: from finished conditions to tables, profiles, maps and cautions.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
