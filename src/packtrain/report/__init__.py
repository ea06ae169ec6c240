"""The page about a run, and the paragraph: readers of its events."""
