"""From a run file to the list of steps that make a project ready for it, in the order in which they go."""

from __future__ import annotations

from dataclasses import dataclass

from packtrain.errors import ConfigError
from packtrain.gcp.access import bucket_access, build_access, identity_access, image_access
from packtrain.gcp.addons import addon_steps
from packtrain.gcp.cluster import cluster_step, credentials_step, pool_step
from packtrain.gcp.inside import namespace_step, secret_step, service_account_step
from packtrain.gcp.networks import network_objects_step, networks_step
from packtrain.gcp.resources import bucket_step, google_account_step, repository_step, services_step
from packtrain.gcp.site import Site
from packtrain.gcp.steps import Step


@dataclass(frozen=True)
class Options:
    via_service_account: bool = False
    create_cluster: bool = False
    create_pool: bool = False
    zone: str | None = None
    """Of the nodes, in a regional cluster."""
    has_token: bool = False
    """A Hugging Face token is known."""
    renew_token: bool = False
    delete_data: bool = False


def steps(site: Site, options: Options) -> list[Step]:
    """Errors: :class:`ConfigError` for a zone that is not in the cluster's region."""
    if options.zone and not options.zone.startswith(f"{site.region}-"):
        raise ConfigError(f"--zone {options.zone} is not in the region of the cluster, {site.region}")
    via = options.via_service_account
    member = f"serviceAccount:{site.google_account}" if via else site.principal
    zone = options.zone
    wanted: list[Step | None] = [
        services_step(site),
        *(bucket_step(site, bucket, delete_data=options.delete_data) for bucket in site.buckets),
        repository_step(site.repository) if site.repository else None,
        *(bucket_step(site, bucket, delete_data=options.delete_data) for bucket in _for_builds(site)),
        networks_step(site, site.fabric, zone) if site.fabric else None,
        cluster_step(site, create=options.create_cluster, zone=zone),
        pool_step(site, create=options.create_pool, zone=zone),
        credentials_step(site),
        network_objects_step(site, site.fabric) if site.fabric else None,
        namespace_step(site),
        google_account_step(site) if via else None,
        service_account_step(site, via=via),
        *(bucket_access(site, bucket, member) for bucket in site.buckets),
        *(bucket_access(site, bucket, member, read_only=True) for bucket in site.sources),
        identity_access(site) if via else None,
        image_access(site, site.repository) if site.repository else None,
        *(build_access(site, site.repository) if site.repository and site.builds else ()),
        secret_step(site, has_token=options.has_token, renew=options.renew_token),
        *addon_steps(site),
    ]
    return [step for step in wanted if step is not None]


def _for_builds(site: Site) -> tuple[str, ...]:
    return (site.build_bucket,) if site.builds and site.build_bucket not in site.buckets else ()
