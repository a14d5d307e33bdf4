"""Files: written whole or not at all; tables, arrays and records as bytes."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .errors import ProbeError

_ROOM = 64 * 1024  # bytes, to find out whether a folder can be written to


