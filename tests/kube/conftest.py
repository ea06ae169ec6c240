"""Fixtures for the tests of the Kubernetes side."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from standins.bucket import BucketServer, bucket_server  # noqa: F401
from standins.kube_api import KubeApi, kube_api  # noqa: F401
from submitted import Site, make_site


@pytest.fixture
def site(
    kube_api: KubeApi,  # noqa: F811
    bucket_server: BucketServer,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Site]:
    """A cluster, a bucket and a hub, with the environment that leads to them."""
    with make_site(kube_api, bucket_server, tmp_path, monkeypatch) as made:
        yield made
