"""A run from start to end: who it is, what it does in which order, how it ended."""
