from .calls import Call as Call
from .fills import extend as extend
from .mode import padding as padding
from .rules import RULES as RULES
from .rules import SIDES as SIDES
from .rules import Rule as Rule
