"""Other tools that are told of a run: Weights & Biases, MLflow, trackio. What they get is in :mod:`.told`."""
