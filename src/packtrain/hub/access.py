"""What the Hugging Face hub answers, in our errors; and the gate that asks it first.

A gated repository describes itself to anybody and refuses its files, so the gate asks for a file.
See https://huggingface.co/docs/hub/models-gated
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal
from urllib.parse import quote

from packtrain.errors import AccessError, ConfigError, PacktrainError, StorageError, UnavailableError
from packtrain.hub.waiting import said_plainly

RepoType = Literal["model", "dataset"]
#: What the hub says of a token that it does not know; other 401s hide a repository.
BAD_TOKEN = "Invalid credentials"  # noqa: S105
TOKEN_HINT = "make a token at https://huggingface.co/settings/tokens and set HF_TOKEN, or run `hf auth login`"  # noqa: S105


def check_access(repo_id: str, revision: str | None = None, *, repo_type: RepoType = "model") -> str | None:
    """Prove that the token in use may read the files; the commit that ``revision`` stands for.

    None with ``HF_HUB_OFFLINE=1``: then the cache decides. Errors: :class:`AccessError` (token refused,
    gated, private or not there), :class:`ConfigError` (no such revision, no ``config.json``),
    :class:`UnavailableError` (no network, or the hub is down after retries).
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.constants import is_offline_mode
    from huggingface_hub.utils import validate_repo_id

    if is_offline_mode():
        return None
    with hub_errors(repo_id, repo_type=repo_type, revision=revision):
        validate_repo_id(repo_id)
        if repo_type == "dataset":
            # A data set has no file that is always there; the hub has a question for that.
            _ask(f"/api/datasets/{repo_id}/auth-check")
            at = f"/revision/{quote(revision, safe='')}" if revision else ""
            commit = _ask(f"/api/datasets/{repo_id}{at}").get("sha")
        else:
            url = hf_hub_url(repo_id, "config.json", revision=revision)
            commit = get_hf_file_metadata(url, retry_on_errors=True).commit_hash
        if not commit:
            raise _not_a_hub(repo_id)
        return str(commit)


def _not_a_hub(repo_id: str) -> UnavailableError:
    return UnavailableError(
        f"what answers for {repo_id} is not a Hugging Face hub",
        hint="check HF_ENDPOINT, the proxy and whether this network wants a login",
    )


def _ask(path: str) -> dict[str, Any]:
    """GET with the client's retries, which its own methods for these questions leave out."""
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_backoff

    response = http_backoff("GET", constants.ENDPOINT + path, headers=build_hf_headers())
    hf_raise_for_status(response)
    try:
        return dict(response.json())
    except ValueError:
        return {}


@contextmanager
def hub_errors(repo_id: str, *, repo_type: RepoType = "model", revision: str | None = None) -> Iterator[None]:
    """Errors of huggingface_hub (and of datasets, which wraps them) become ours, with a sentence."""
    try:
        with said_plainly():
            yield
    except PacktrainError:
        raise
    except Exception as error:
        translated = _translate(error, repo_id, repo_type, revision)
        if translated is None:
            raise
        raise translated from error


def _translate(  # noqa: PLR0911  (a return a case)
    error: BaseException, repo_id: str, repo_type: RepoType, revision: str | None
) -> PacktrainError | None:
    """The first error in the chain of causes that says something about the hub; None for no such."""
    from huggingface_hub import errors as hub

    repo = f"the data set {repo_id}" if repo_type == "dataset" else f"the model {repo_id}"
    # These only say that the cache could not help either; what they were caused by says why.
    wrappers = (hub.LocalEntryNotFoundError, hub.RevisionResolutionError)
    cause = error.__cause__ or error.__context__
    if isinstance(error, hub.HfHubHTTPError):
        return _answer(error, repo_id, repo, repo_type, revision)
    if cause is not None and not isinstance(error, hub.OfflineModeIsEnabled):
        deeper = _translate(cause, repo_id, repo_type, revision)
        if deeper is not None:
            return deeper
    if isinstance(error, hub.HFValidationError):
        return ConfigError(
            f"{repo_id!r} is not a Hugging Face id (OWNER/NAME), and no such file or folder is there"
        )
    if isinstance(error, (*wrappers, hub.OfflineModeIsEnabled)):
        return UnavailableError(
            f"{repo} is not (wholly) in the cache and the Hugging Face hub is not asked",
            hint="unset HF_HUB_OFFLINE, or download it first where there is a network",
        )
    if isinstance(error, hub.HTTPError | ConnectionError | TimeoutError):
        return UnavailableError(
            f"the Hugging Face hub does not answer, asked for {repo} ({type(error).__name__})",
            hint="check the network and the proxy; with all files in the cache, HF_HUB_OFFLINE=1 needs none",
        )
    if isinstance(error, hub.FileMetadataError):
        return _not_a_hub(repo_id)
    if _is_incomplete(error):
        return UnavailableError(
            f"a file of {repo} came incomplete from the Hugging Face hub, each time it was asked for",
            hint="check the proxy, if there is one; the same command goes on with what is missing",
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
        return StorageError(
            f"{repo} cannot be stored: {error.strerror}",
            hint="HF_HOME says where the Hugging Face cache lies",
        )
    return None


def _is_incomplete(error: BaseException) -> bool:
    """The client's own check of a file's size (huggingface_hub/file_download.py, ``http_get``)."""
    return type(error) is OSError and str(error).startswith("Consistency check failed")


def can_pass(error: BaseException) -> bool:
    """Whether another try may do better: the connection broke, a body was cut, or the hub is in trouble.

    Not where it asks for fewer requests: the client has waited as long as was said, several times.
    """
    from huggingface_hub import errors as hub

    if isinstance(error, hub.HfHubHTTPError):
        return int(error.response.status_code) >= 500
    if isinstance(error, hub.HTTPError | ConnectionError | TimeoutError) or _is_incomplete(error):
        return True
    cause = error.__cause__ or error.__context__
    return cause is not None and can_pass(cause)


def _answer(  # noqa: PLR0911  (a return a case)
    error: BaseException, repo_id: str, repo: str, repo_type: RepoType, revision: str | None
) -> PacktrainError:
    """The hub answered, with an error status."""
    from huggingface_hub import errors as hub
    from huggingface_hub import get_token

    response = error.response  # type: ignore[attr-defined]
    status = int(response.status_code)
    said = response.headers.get("X-Error-Message") or ""
    page = f"https://huggingface.co/{'datasets/' if repo_type == 'dataset' else ''}{repo_id}"
    has_token = get_token() is not None
    if status == 401 and has_token and said.startswith(BAD_TOKEN):
        return AccessError(
            f"the Hugging Face token was refused (asked for {repo}): it is wrong, expired or revoked",
            hint=TOKEN_HINT,
        )
    if isinstance(error, hub.GatedRepoError):
        reason = "the token in use has not been let in" if has_token else "there is no Hugging Face token"
        hint = f"ask for access at {page}" + (
            "; a fine-grained token also needs the right to read gated repositories"
            if has_token
            else f", then {TOKEN_HINT}"
        )
        return AccessError(f"{repo} is gated and {reason}", hint=hint)
    if isinstance(error, hub.RepositoryNotFoundError):
        reason = (
            "or it is private and the token in use may not see it"
            if has_token
            else "or it is private and there is no Hugging Face token"
        )
        return AccessError(f"{repo} is not on the Hugging Face hub, {reason}", hint=f"look at {page}")
    if isinstance(error, hub.RevisionNotFoundError):
        return ConfigError(f"{repo} has no revision {revision!r} (a branch, a tag or a commit)", hint=page)
    if isinstance(error, hub.EntryNotFoundError):
        return ConfigError(f"{repo} lacks {str(response.url).rsplit('/', 1)[-1]}: it is not what is needed")
    if isinstance(error, hub.DisabledRepoError):
        return AccessError(f"{repo} has been disabled by the Hugging Face hub or its author", hint=page)
    if status in (401, 403):
        return AccessError(
            f"the Hugging Face hub refuses access to {repo} (status {status})",
            hint="a fine-grained token needs the right to read this repository: " + TOKEN_HINT,
        )
    if status == 429:
        return UnavailableError(
            f"the Hugging Face hub limits the rate of requests (status 429), asked for {repo}",
            hint="try again in some minutes; requests with a token have a higher limit",
        )
    return UnavailableError(f"the Hugging Face hub answers with status {status}, asked for {repo}")
