"""Records: the plain data of a run, as tables and files, and what they say in words.

In: finished tables, maps, certificates, provenance.
Out: files, and records read from them; sentences.
Not here: pictures and pages, networks.

- ``erasure``: what ways of taking position out leave.
- ``outline``: numbers and sentences of a record, as plain data.
- ``record``: table, maps, certificates, profile, patterns, provenance.
- ``store``: arrays, tables and run.json, written whole and read back.
- ``verdict``: the strongest first, cautions after.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
