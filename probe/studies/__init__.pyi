from .cells import Cell as Cell
from .cells import Outcome as Outcome
from .cells import pick_workers as pick_workers
from .cells import run_cells as run_cells
from .study import Study as Study
from .study import over_seeds as over_seeds
from .study import seeds_text as seeds_text
from .study import train_cells as train_cells
