from .ladder import Ladder as Ladder
from .ladder import load_ladder as load_ladder
from .rungs import RUNGS as RUNGS
from .rungs import STEPS as STEPS
from .rungs import STRENGTH as STRENGTH
from .rungs import TARGETS as TARGETS
