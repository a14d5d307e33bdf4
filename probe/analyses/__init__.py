"""Analyses: each question that can be asked of a backbone, in a room or file of its own.

In: options.
Out: a result, an attribution, a calibration, a ladder, a reproduction, a survey.
Not here: the passes themselves, the command line.

- ``consistency``: shifts below the stride.
- ``calibration``: how often the intervals say that there is position where there is none.
- ``feature_arrays``: raw features of layers, as arrays or memory maps.
- ``layer_table``: what can be probed of a network, and how that was found out.
- ``run``: one backbone, every weights × variant × layer × target, in two passes.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
