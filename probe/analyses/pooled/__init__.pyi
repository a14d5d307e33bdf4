from .page import plot_pooled as plot_pooled
from .pooled import Pooled as Pooled
from .pooled import load_pooled as load_pooled
from .pooled import pooled as pooled
from .reading import PlaceReader as PlaceReader
from .reading import channel_shares as channel_shares
