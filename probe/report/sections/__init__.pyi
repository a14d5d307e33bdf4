from .contents import SECTIONS as SECTIONS
from .section import Section as Section
