from .cells import Cell as Cell
from .cells import list_cells as list_cells
from .collection import Zoo as Zoo
from .collection import load as load
from .engines import ENGINES as ENGINES
from .tables import models_table as models_table
from .tables import scores_table as scores_table
