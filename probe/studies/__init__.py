"""Studies: many small trainings, one table.

In: cells, each the options of one training.
Out: outcomes, kept one by one and resumed; tables, curves and arrays of all.
Not here: what is trained, and what an experiment says of it.

- ``cells``: trainings side by side, each kept as soon as it is finished.
- ``study``: outcomes as tables, with averages over seeds.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
