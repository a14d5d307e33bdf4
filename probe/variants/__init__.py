"""Variants: how a backbone is run, as trained or without a source of position.

In: a backbone and the name of a variant.
Out: the features of its layers for a batch of images, weights untouched.
Not here: what is fitted to the features; proofs that a source is gone.

- ``variant``: the named ways to run a backbone.
- ``canvas``: how far padding reaches, and the margin that keeps it out of the image.
- ``kinds``: the kinds of sources of position.
- ``removals``: what becomes of the tensors of each kind, by name.
- ``removing``: which values of a tensor belong to places, and their removal.
- ``run``: its layers, and their features for a batch of images.
- ``layouts``: which dimensions of a tensor are places.
- ``follower``: which tensors know of places, and where position enters.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
