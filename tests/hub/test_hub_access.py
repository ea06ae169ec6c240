"""The hub's refusals become one sentence and the right exit code, by the real client."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from standins.hub import Hub, Repo, point_here, serve_hub
from standins.hub_files import commit_of

from packtrain.errors import AccessError, ConfigError, UnavailableError
from packtrain.hub.access import RepoType, check_access, hub_errors
from packtrain.hub.waiting import CLIENT

Use = Callable[..., None]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture
def hub(files: Path, tmp_path: Path) -> Iterator[Hub]:
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"v": 1}')
    models: dict[str, Path | dict[str, Path] | Repo] = {
        "o/open": {"main": files, "v1": other},
        "o/gated": Repo({"main": files}, gated=True),
        "o/private": Repo({"main": files}, private=True),
    }
    data: dict[str, Path | Repo] = {"o/rows": files, "o/gated-rows": Repo({"main": files}, gated=True)}
    with serve_hub(models, data) as hub:
        hub.tokens.add("hf_let_in")
        hub.known.add("hf_stranger")
        yield hub


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch, hub: Hub, tmp_path: Path) -> Use:
    def use(token: str | None = None) -> None:
        point_here(monkeypatch, hub, tmp_path / "home", token)

    use()
    return use


def test_the_gate_gives_the_commit(use: Use, files: Path, tmp_path: Path) -> None:
    assert check_access("o/open") == commit_of(files)
    assert check_access("o/open", "v1") == commit_of(tmp_path / "other")
    assert check_access("o/rows", repo_type="dataset") == commit_of(files)


@pytest.mark.parametrize("kind", ["model", "dataset"])
@pytest.mark.parametrize(
    ("token", "words"),
    [
        (None, "there is no Hugging Face token"),
        ("hf_stranger", "has not been let in"),
        ("hf_wrong", "the Hugging Face token was refused"),
    ],
)
def test_a_gated_repository(use: Use, kind: RepoType, token: str | None, words: str) -> None:
    use(token)
    name = "o/gated" if kind == "model" else "o/gated-rows"
    with pytest.raises(AccessError, match=words) as caught:
        check_access(name, repo_type=kind)
    assert name in str(caught.value)
    if token != "hf_wrong":
        page = "o/gated" if kind == "model" else "datasets/o/gated-rows"
        assert f"https://huggingface.co/{page}" in (caught.value.hint or "")
    assert token is None or token not in str(caught.value) + (caught.value.hint or "")


def test_a_token_that_is_let_in(use: Use) -> None:
    use("hf_let_in")
    assert check_access("o/gated") == check_access("o/private")


@pytest.mark.parametrize("name", ["o/private", "o/nothing", "nothing"])
@pytest.mark.parametrize("token", [None, "hf_stranger"])
def test_private_or_not_there(use: Use, name: str, token: str | None) -> None:
    use(token)
    with pytest.raises(AccessError, match=f"{name} is not on the Hugging Face hub, or it is private"):
        check_access(name)


def test_a_bad_token_is_refused_even_for_open_models(use: Use) -> None:
    use("hf_wrong")
    with pytest.raises(AccessError, match="wrong, expired or revoked"):
        check_access("o/open")


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_no_such_revision(use: Use, kind: RepoType) -> None:
    with pytest.raises(ConfigError, match="no revision 'v9'"):
        check_access("o/open" if kind == "model" else "o/rows", "v9", repo_type=kind)


def test_no_config(use: Use, files: Path) -> None:
    (files / "config.json").rename(files / "other.json")
    with pytest.raises(ConfigError, match=r"lacks config\.json"):
        check_access("o/open")


@pytest.mark.parametrize("name", ["a/b/c", "a b", "-x", "a..b/c"])
def test_not_an_id(use: Use, name: str) -> None:
    with pytest.raises(ConfigError, match="is not a Hugging Face id"):
        check_access(name)


def test_a_fine_grained_token_without_the_right(use: Use, hub: Hub) -> None:
    hub.fail("/o/open", 403, X_Error_Message="no")
    with pytest.raises(AccessError, match="refuses access"):
        check_access("o/open")


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_passes_by_itself_is_tried_again(use: Use, hub: Hub, files: Path, status: int) -> None:
    hub.fail("/o/open", status, times=3, Retry_After="0")
    hub.fail("/o/rows/auth", status, times=3, Retry_After="0")
    hub.fail("/o/rows", status, times=2, Retry_After="0")
    assert check_access("o/open") == commit_of(files)
    assert len(hub.requests) == 4
    assert check_access("o/rows", repo_type="dataset") == commit_of(files)


@pytest.fixture
def said() -> Iterator[list[str]]:
    """What the client says of its retries."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger(CLIENT).addHandler(handler)
    yield lines
    logging.getLogger(CLIENT).removeHandler(handler)


@pytest.mark.parametrize(("status", "why"), [(503, "does not answer"), (429, "asks for fewer requests")])
def test_a_plain_sentence_a_try(use: Use, hub: Hub, said: list[str], status: int, why: str) -> None:
    hub.fail("/o/open", status, times=2, RateLimit='"api";r=0;t=1')
    check_access("o/open")
    assert [(line.split(": ")[0], line.split(" s ")[1]) for line in said] == [
        (f"the Hugging Face hub {why}", "(1/5)"),
        (f"the Hugging Face hub {why}", "(2/5)"),
    ]


def test_other_words_of_the_client_stay(use: Use, said: list[str]) -> None:
    with hub_errors("o/open"):
        logging.getLogger(CLIENT).warning("something else")
    assert said == ["something else"]


@pytest.mark.parametrize(("status", "words"), [(429, "rate of requests"), (503, "status 503")])
def test_tries_have_an_end(use: Use, hub: Hub, status: int, words: str) -> None:
    hub.fail("/o/", status)
    with pytest.raises(UnavailableError, match=words):
        check_access("o/open")
    with pytest.raises(UnavailableError, match=words):
        check_access("o/rows", repo_type="dataset")
    assert len(hub.requests) < 20


def test_no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    point_here(monkeypatch, url, tmp_path)
    with pytest.raises(UnavailableError, match="does not answer"):
        check_access("o/open")


def test_something_else_answers(use: Use, hub: Hub) -> None:
    hub.fail("/", 200)  # such as a network's page to log in
    for name, kind in (("o/open", "model"), ("o/rows", "dataset")):
        with pytest.raises(UnavailableError, match="is not a Hugging Face hub"):
            check_access(name, repo_type=kind)  # type: ignore[arg-type]


def test_offline_the_gate_stays_open(monkeypatch: pytest.MonkeyPatch, use: Use, hub: Hub) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert check_access("o/open") is None
    assert hub.requests == []


def test_errors_of_others_pass() -> None:
    with pytest.raises(ZeroDivisionError), hub_errors("o/open"):
        raise ZeroDivisionError
    with pytest.raises(ConfigError, match="mine"), hub_errors("o/open"):
        raise ConfigError("mine")
    with pytest.raises(FileNotFoundError), hub_errors("o/open"):
        raise FileNotFoundError("a file of the user's")
