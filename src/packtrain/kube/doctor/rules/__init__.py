"""All rules, in the order of their ids: one small function each, by subject."""

from __future__ import annotations

from typing import Any

from packtrain.kube.doctor.rule import Rule
from packtrain.kube.doctor.rules import (
    clusters,
    fabrics,
    failure,
    files,
    networks,
    policies,
    pool_capacity,
    pools,
    queues,
    resources,
    scheduling,
    scripts,
    secrets,
    security,
    tcpxo,
)

ALL: tuple[Rule[Any], ...] = (
    *files.RULES,
    *scheduling.RULES,
    *resources.RULES,
    *failure.RULES,
    *scripts.RULES,
    *tcpxo.RULES,
    *fabrics.RULES,
    *networks.RULES,
    *secrets.RULES,
    *security.RULES,
    *queues.RULES,
    *pools.RULES,
    *pool_capacity.RULES,
    *clusters.RULES,
    *policies.RULES,
)
