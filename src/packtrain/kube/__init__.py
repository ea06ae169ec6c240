"""Kubernetes: manifests as pure functions of a run file, and what is done with them."""
