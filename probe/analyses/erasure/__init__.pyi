from .erasure import Erasure as Erasure
from .erasure import erasure as erasure
from .pictures import Shown as Shown
from .pictures import component_colours as component_colours
from .pictures import patch_similarity as patch_similarity
from .pictures import plot_erased as plot_erased
