from .attribution import plot_attribution as plot_attribution
from .consistency import plot_consistency as plot_consistency
from .depth import plot_layers as plot_layers
from .maps import plot_maps as plot_maps
from .maps import plot_pattern as plot_pattern
from .profile import plot_profile as plot_profile
