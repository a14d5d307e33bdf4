"""The command line.

In: words.
Out: calls of the Python interface, lines on the terminal, an exit status.
Not here: anything that Python can't do as well.

- ``main``: where the command starts.
- ``analyses``: calibrate, attribute, consistency, reproduce, ladder.
- ``app``: the command `probe`, and what its commands share.
- ``erasure``: erase, pooled.
- ``networks``: models, sources, padding-sizes, certify, survey.
- ``options``: options that commands share.
- ``run``: the command `probe run`.
- ``studies``: coordconv, instances.
- ``table``: the command `probe table`.
- ``zoo``: the command `probe zoo`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
