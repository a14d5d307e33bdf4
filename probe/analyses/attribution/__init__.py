"""Attribution: which padded calls and which sides put position into a layer.

In: a model and one layer.
Out: a table of effects, sentences, a figure.
Not here: the passes, which are the runner's.

- ``attribution``: which padded calls, and which sides of the image, put position into a layer.
- ``units``: padded calls that keep or lose their padding together.
- ``sources``: units that are kinds of sources of position.
- ``summary``: effects of units as a table, and in sentences.
- ``figure``: the figure of an attribution.
- ``replay``: conditions of an attribution, with outputs that stay the same played again.
- ``section``: the section of a report on attribution.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
