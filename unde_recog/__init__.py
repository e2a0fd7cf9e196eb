"""Street photo in, shop shelf out."""

__version__ = "0.1.0"
