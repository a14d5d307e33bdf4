"""The name under which 0.4 had :mod:`probe.analyses.planted`."""

from .analyses.planted.recovery import recover as recover
from .analyses.planted.truth import Planted as Planted
