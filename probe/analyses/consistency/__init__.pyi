from .consistency import Consistency as Consistency
from .consistency import consistency as consistency
from .consistency import load_consistency as load_consistency
