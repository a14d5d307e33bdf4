"""The ladder: one network without a border, as trained, and given coordinates.

In: a model.
Out: scores on three rungs, a figure, a page.
Not here: training.

- ``ladder``: one network, the same readout, and three amounts of position, from 0 to 80 to 100.
- ``rungs``: the rungs of a ladder, and those of the instance experiment.
- ``coordinates``: coordinates given to every convolution of a network, untrained.
- ``page``: the figure and the page of a ladder.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
