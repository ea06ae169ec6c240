"""packtrain: a run file in, a verified adapter out."""

__version__ = "0.1.0"
