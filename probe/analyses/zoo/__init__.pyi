from .cells import Cell as Cell
from .cells import list_cells as list_cells
from .tables import models_table as models_table
from .tables import scores_table as scores_table
