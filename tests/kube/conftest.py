"""Fixtures for the tests of the Kubernetes side."""

from standins.kube_api import kube_api  # noqa: F401  (the fixture)
