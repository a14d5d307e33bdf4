"""The survey: certificates of many architectures.

In: names of models.
Out: a table with a reason in each row, resumable; its page.
Not here: readouts.

- ``survey``: inventory and certificate of every architecture of timm, in one table.
- ``table``: read, written, and put into sentences.
- ``page``: the page of a survey.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
