from .survey import parameters as parameters
from .table import COLUMNS as COLUMNS
from .table import STATUSES as STATUSES
from .table import findings as findings
from .table import load_survey as load_survey
