"""The version, where neither torch nor timm is needed to read it."""

__version__ = "0.4.0"
