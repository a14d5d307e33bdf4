"""The zoo: many networks, each in a process of its own, and what is known of all of them.

In: names, weights and options.
Out: a folder with one sub-folder for each cell (model × weights × options), and its tables.
Not here: what a run measures, and how a result is drawn.

- ``cells``: what is asked for, as cells with names.
- ``locks``: who works on a cell.
- ``folder``: what lies in a zoo's folder, and how a cell gets there whole.
- ``estimate``: parameters, operations and memory of a network, without running it.
- ``work``: what the process of a cell does.
- ``how``: how cells are run.
- ``server``: forks a process for each cell.
- ``engines``: where cells run: processes, this process, a Ray cluster.
- ``supervise``: gives cells to an engine until all are finished or failed.
- ``tables``: scores and models of all cells, as functions of the folder.
- ``reports``: the folder of reports of `probe run`, as a place for cells.
- ``plan``: what a zoo would take, and how far one is.
- ``collection``: a zoo on disk, to look at.
- ``zoo``: the zoo, from Python.
- ``schema``: what the columns of the tables are.
- ``curves``, ``ranking``, ``accuracy``, ``page``: the leaderboard.
- ``comparison``: networks beside each other, their figures and paired differences.
- ``export``: tables as csv, Parquet, Markdown and LaTeX.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
