"""The training loop: optimizer, checkpoints, stopping, progress."""
