from .ladder import Ladder as Ladder
from .ladder import load_ladder as load_ladder
from .rungs import RUNGS as RUNGS
from .rungs import STEPS as STEPS
from .rungs import instance_rungs as instance_rungs
