"""Variants: how a backbone is run, as trained or without a source of position.

In: a backbone and the name of a variant.
Out: the features of its layers for a batch of images, weights untouched.
Not here: what is fitted to the features; proofs that a source is gone.

- ``variant``: the named ways to run a backbone.
- ``canvas``: how far padding reaches, and the margin that keeps it out of the image.
- ``run``: its layers, and their features for a batch of images; position embeddings taken away.
- ``follower``: which tensors know of places, and where position enters.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
