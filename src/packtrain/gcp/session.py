"""What the cloud verbs begin with: the run file's site, a runner for it, the token, the journal."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TextIO

from packtrain.config import RunConfig
from packtrain.errors import UnavailableError, UsageError
from packtrain.gcp.commands import Programs
from packtrain.gcp.inside import TOKEN
from packtrain.gcp.journal import Journal, journal_of
from packtrain.gcp.looks import build_account, project_number
from packtrain.gcp.shown import kubeconfig
from packtrain.gcp.site import BUILD_ACCOUNT, PROJECT_NUMBER, Site, site_of

#: What a token may have: it is put between quotes in YAML and in a shell's here-document.
_TOKEN = re.compile(r"[A-Za-z0-9_.~+/=-]{8,512}")


@dataclass(frozen=True)
class Session:
    site: Site
    runner: Programs
    journal: Journal

    @property
    def has_token(self) -> bool:
        return bool(self.runner.secrets[TOKEN])

    def begin(self) -> None:
        """The first question: it fails where gcloud is not there, not logged in, or sees no such project."""
        self.runner.values[PROJECT_NUMBER] = project_number(self.runner, self.site)

        def builder() -> str:
            account = build_account(self.runner, self.site)
            if account is None:
                raise UnavailableError("Cloud Build does not tell yet with which account it builds")
            return account

        self.runner.later[BUILD_ACCOUNT] = builder


def open_session(
    config: RunConfig, token: str | None = None, environment: Mapping[str, str] | None = None
) -> Session:
    """Nothing is asked yet. ``environment``: for the programs, beside this process's own."""
    site = site_of(config)
    # gcloud writes into its KUBECONFIG when it makes a cluster: never into one that the user names.
    own = {"KUBECONFIG": str(site.kubeconfig), **(environment or {})}
    kubectl = {"kubectl": {"KUBECONFIG": kubeconfig(site)}}
    runner = Programs(own, kubectl, secrets={TOKEN: token or ""})
    return Session(site, runner, journal_of(site))


def find_token(stdin: TextIO | None) -> str | None:
    """The Hugging Face token: from ``stdin`` where given, else HF_TOKEN, else the login's file.

    Errors: :class:`UsageError` for what cannot be a token; its content is never told.
    """
    if stdin is not None:
        token, where = stdin.readline().strip(), "what came on stdin"
        if not token:
            raise UsageError("--token-stdin: nothing came on stdin")
    else:
        from huggingface_hub import get_token

        token, where = get_token() or "", "HF_TOKEN (or the file of `hf auth login`)"
    if token and not _TOKEN.fullmatch(token):
        raise UsageError(f"{where} is no Hugging Face token: it has other characters, or another length")
    return token or None
