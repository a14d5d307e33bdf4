from .attribution import Attribution as Attribution
from .attribution import attribute as attribute
from .attribution import load_attribution as load_attribution
from .figure import plot_attribution as plot_attribution
from .summary import COLUMNS as COLUMNS
from .summary import ENOUGH as ENOUGH
from .summary import NEEDED as NEEDED
