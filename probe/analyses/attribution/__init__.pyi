from .attribution import Attribution as Attribution
from .attribution import attribute as attribute
from .attribution import load_attribution as load_attribution
