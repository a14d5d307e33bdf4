from .inflation import deflate as deflate
from .inflation import inflate as inflate
from .layers import AddCoords as AddCoords
from .layers import CoordConv2d as CoordConv2d
from .layers import CoordConvTranspose2d as CoordConvTranspose2d
from .layers import coordinates as coordinates
from .study import CoordConvStudy as CoordConvStudy
from .study import run_tasks as run_tasks
