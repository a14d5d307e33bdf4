from .index import write_index as write_index
from .page import fragment as fragment
from .page import page as page
from .style import CMAP as CMAP
from .style import DIVERGING as DIVERGING
from .style import LABELS as LABELS
from .style import style as style
