from .recovery import Recovery as Recovery
from .recovery import planted_truth as planted_truth
from .recovery import recover as recover
from .truth import CHANNELS as CHANNELS
from .truth import SNRS as SNRS
from .truth import Planted as Planted
