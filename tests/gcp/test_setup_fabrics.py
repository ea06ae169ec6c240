"""The networks of several nodes, for each kind of fabric: made, seen, bound to a zone, taken back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from setups import EVERYTHING, Setup, config, site
from standins.fake_programs import FakePrograms, flag

from packtrain.errors import ConfigError
from packtrain.gcp.check import from_plan
from packtrain.gcp.cluster import pool_flags
from packtrain.gcp.setup import Options, steps
from packtrain.gcp.shown import setup_script
from packtrain.gcp.site import site_of

ZONE = "us-central1-b"
FABRICS = {
    "a3-highgpu-8g": (4, 4),
    "a3-megagpu-8g": (8, 8),
    "a3-ultragpu-8g": (9, 2),
    "a4-highgpu-8g": (9, 2),
}


def laptop(tmp_path: Path, cloud: FakePrograms, machine: str, zone: str | None = ZONE, **more: Any) -> Setup:
    return Setup(site(machine=machine, nodes=2, **more), cloud, tmp_path, replace(EVERYTHING, zone=zone))


def networks(cloud: FakePrograms, kind: str) -> list[str]:
    return sorted(key.partition(" ")[2] for key in cloud.state if key.startswith(f"{kind} "))


@pytest.mark.parametrize("machine", FABRICS)
def test_from_nothing_to_ready_and_back(machine: str, tmp_path: Path) -> None:
    cards, vpcs = FABRICS[machine]
    cloud = FakePrograms()
    setup = laptop(tmp_path, cloud, machine)
    setup.run()
    assert len(networks(cloud, "subnets")) == cards
    assert len(networks(cloud, "networks")) == vpcs
    objects = {key for key in cloud.state if key.startswith("kube gkenetworkparamset ")}
    assert len(objects) == cards
    states = setup.states()
    assert {key: states[key] for key in ("networks", "network-objects", "pool")} == dict.fromkeys(
        ("networks", "network-objects", "pool"), "there"
    )
    laptop(tmp_path / "another", cloud, machine, zone=None).destroy()
    assert cloud.state == {}


def test_rdma_is_one_network_with_a_zones_profile_and_no_firewall_rule(tmp_path: Path) -> None:
    cloud = FakePrograms()
    laptop(tmp_path, cloud, "a3-ultragpu-8g").run()
    made = [each for each in cloud.changes if each.argv[:4] == ("gcloud", "compute", "networks", "create")]
    profiles = {each.argv[4]: flag(each, "network-profile") for each in made}
    assert profiles == {"trainer-gvnic": "", "trainer-rdma": f"{ZONE}-vpc-roce"}
    assert networks(cloud, "firewall-rules") == ["trainer-gvnic"]
    modes = {
        key.split()[2]: each["spec"]["deviceMode"] for key, each in cloud.state.items() if "paramset" in key
    }
    assert modes == {"gvnic-1": "NetDevice", **{f"rdma-{index}": "RDMA" for index in range(8)}}


def test_subnetworks_of_a_cluster_do_not_overlap(tmp_path: Path) -> None:
    for machine in FABRICS:
        of = site(machine=machine, nodes=2)
        spans = [
            flag(command, "range")
            for step in steps(of, replace(EVERYTHING, zone=ZONE))
            for command in step.make
            if "subnets" in command.argv
        ]
        assert len(spans) == len(set(spans)) == FABRICS[machine][0]


def test_the_pool_has_the_cards_in_their_order() -> None:
    flags = [
        each for each in pool_flags(site(machine="a4-highgpu-8g", nodes=2), ZONE) if "additional" in each
    ]
    assert flags[0] == "--additional-node-network=network=trainer-gvnic,subnetwork=trainer-gvnic"
    assert flags[1:] == [
        f"--additional-node-network=network=trainer-rdma,subnetwork=trainer-rdma-{index}"
        for index in range(8)
    ]


def test_a_network_of_a_zone_waits_until_the_zone_is_named(tmp_path: Path) -> None:
    cloud = FakePrograms()
    setup = laptop(tmp_path, cloud, "a3-ultragpu-8g", zone=None)
    with pytest.raises(ConfigError, match="bound to the nodes' zone") as raised:
        setup.run()
    assert "--zone names it" in (raised.value.hint or "")
    assert cloud.changes == [], "nothing is made before"
    (found,) = [each for each in from_plan(setup.plan()) if "networks for the GPUs" in each.title]
    assert (found.verdict, found.exit_code) == ("missing", 78)
    printed = setup_script(setup.site, steps(setup.site, setup.options))
    assert "# ZONE: set it to the zone of the nodes" in printed
    assert '"--network-profile=$ZONE-vpc-roce"' in printed
    laptop(tmp_path, cloud, "a3-ultragpu-8g").run()
    assert laptop(tmp_path, cloud, "a3-ultragpu-8g", zone=None).states()["networks"] == "there"


def test_a_cluster_in_a_zone_names_it(tmp_path: Path) -> None:
    cloud = FakePrograms()
    laptop(tmp_path, cloud, "a3-ultragpu-8g", zone=None, location="us-central1-b").run()
    assert networks(cloud, "networks") == ["trainer-gvnic", "trainer-rdma"]


@pytest.mark.parametrize("machine", FABRICS)
def test_what_is_installed_into_the_cluster_is_pinned(machine: str) -> None:
    of = site_of(config(machine=machine, nodes=2))
    cloud = FakePrograms(state={"clusters trainer": {"status": "RUNNING"}})
    seen = {
        step.key: step.look(cloud, False) for step in steps(of, Options()) if step.key.endswith("installer")
    }
    (found,) = seen.values()
    assert found.hint is not None
    assert "/master/" not in found.hint
    assert found.hint.startswith("install it: kubectl apply -f https://raw.githubusercontent.com/")
