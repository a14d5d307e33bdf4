from .published import published as published
from .reproduction import Reproduction as Reproduction
from .reproduction import load_reproduction as load_reproduction
from .reproduction import reproduce as reproduce
