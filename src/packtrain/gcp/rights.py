"""Which of the needed permissions the caller has, asked of Google Cloud in one request.

gcloud has no command for it. The request goes where gcloud would send it, with gcloud's own access
token, which is held in memory alone. https://cloud.google.com/iam/docs/testing-permissions
"""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence

from packtrain.errors import AccessError, UnavailableError
from packtrain.gcp.ask import checked
from packtrain.gcp.commands import Command, Runner
from packtrain.gcp.permissions import NEEDED
from packtrain.gcp.site import Site

_OVERRIDE = "CLOUDSDK_API_ENDPOINT_OVERRIDES_CLOUDRESOURCEMANAGER"
#: (project, permissions, access token) -> those that are held.
Tester = Callable[[str, Sequence[str], str], set[str]]


def missing(site: Site, runner: Runner, parts: Sequence[str], test: Tester) -> dict[str, list[str]]:
    """Part of the setup -> the permissions that the caller lacks for it on the project."""
    token = checked(runner, Command(("gcloud", "auth", "print-access-token"))).strip()
    asked = sorted({permission for part in parts for permission in NEEDED[part]})
    held = test(site.project, asked, token)
    lacking = {part: [each for each in NEEDED[part] if each not in held] for part in parts}
    return {part: permissions for part, permissions in lacking.items() if permissions}


def held_permissions(project: str, permissions: Sequence[str], token: str) -> set[str]:
    """Errors: :class:`AccessError`, :class:`UnavailableError`."""
    endpoint = os.environ.get(_OVERRIDE, "https://cloudresourcemanager.googleapis.com/").rstrip("/")
    request = urllib.request.Request(  # noqa: S310  (https, or what gcloud's own override names)
        f"{endpoint}/v1/projects/{project}:testIamPermissions",
        data=json.dumps({"permissions": list(permissions)}).encode(),
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return set(json.load(answer).get("permissions", ()))
    except urllib.error.HTTPError as error:
        if error.code in {401, 403}:
            raise AccessError(
                f"the project {project} does not tell which rights the account has (status {error.code})",
                hint="check cluster.project, and that gcloud is logged in: gcloud auth login",
            ) from None
        raise UnavailableError(f"Google Cloud answers with status {error.code}, asked for rights") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise UnavailableError(f"Google Cloud is not reached, asked for rights ({reason})") from None
