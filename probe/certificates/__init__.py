"""Certificates: proofs that a variant left no source of position.

In: a network and a variant.
Out: the residual of equivariance with its reasons; the inventory of sources.
Not here: readouts, scores, stimuli of a run.

- ``certificate``: a measured proof that a variant left no padding-made position behind.
- ``target``: one network under certification: its shifts, residuals and first break.
- ``prepare``: a float64 copy of a network, prepared so that its borders show.
- ``inventory``: every place from which absolute position can enter a network.
- ``evenness``: image sizes at which strided calls read as much padding on opposite sides.
- ``certify``: certificates and inventories of models by name or module.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
