"""Borders: what a network finds where its image ends.

In: a rule, and which calls and sides it is for.
Out: a context in which every padded call writes its border by that rule.
Not here: which network or layers are run, what is measured.

- ``rules``: what stands in the place of padding.
- ``calls``: which module makes them, under which names, and the table of what was rewritten.
- ``mode``: what a network sees beyond the edge of a feature map.
- ``pads``: bare padding and resizing under another border.
- ``pools``: pooling under another border.
- ``site``: one padded call and the border that it writes: what all rewritten functions share.
- ``windows``: convolutions, transposed convolutions, unfolding and folding under another border.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
