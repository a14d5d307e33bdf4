from .record import COLUMNS as COLUMNS
from .record import PROFILE_COLUMNS as PROFILE_COLUMNS
from .store import CHANNELS_KEPT as CHANNELS_KEPT
from .verdict import KNOWS as KNOWS
from .verdict import LOCATES as LOCATES
from .terminal import summary as summary
