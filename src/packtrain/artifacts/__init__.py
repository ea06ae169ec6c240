"""What a run leaves: the adapter's files, their receipt, the check by loading again, publishing."""
