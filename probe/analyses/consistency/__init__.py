"""Consistency: what becomes of features when the image moves by less than a stride.

In: options.
Out: residuals by layer and shift, of pooled features and of the top class; their figure.
Not here: certificates, which shift by whole strides.

- ``consistency``: the measurement and its record.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
