"""Fixtures for the tests of the Kubernetes side."""

from standins.bucket import bucket_server  # noqa: F401
from standins.kube_api import kube_api  # noqa: F401  (the fixture)
