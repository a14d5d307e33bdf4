from .published import published as published
from .reproduction import reproduce as reproduce
from .table import Reproduction as Reproduction
from .table import load_reproduction as load_reproduction
