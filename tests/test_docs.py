"""The documents stay true: their commands, keys, tables, rows and links are held against the code.

``PACKTRAIN_UPDATE=1 .venv/bin/python -m pytest tests/test_docs.py`` renews the tables that are made
from the code.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from docs_tables import BLOCK, TRIED_AGAIN, generated, renewed

from packtrain import __version__
from packtrain.artifacts import adapter_files, tokenizer_files
from packtrain.artifacts.publish import CLAIM
from packtrain.artifacts.receipt import FileFacts, Receipt
from packtrain.cli.init import TEMPLATES
from packtrain.cli.main import VERBS, application
from packtrain.config import RunConfig
from packtrain.data.formats import FORMATS, detect_format, to_conversation
from packtrain.data.rows import Row
from packtrain.errors import BY_EXIT_CODE
from packtrain.plan.options import split
from packtrain.rundir import KINDS
from packtrain.runfile.document import _Loader
from packtrain.runfile.keys import FIELDS, SECTIONS

ROOT = Path(__file__).resolve().parents[1]
READMES = [ROOT / "README.md", ROOT / "README.ko.md"]
GUIDE = sorted((ROOT / "docs").rglob("*.md"))
KOREAN = sorted((ROOT / "docs" / "ko").glob("*.md"))
DOCUMENTS = [*READMES, *GUIDE, ROOT / "CONTRIBUTING.md"]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)")


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def blocks(path: Path, *languages: str) -> list[str]:
    return [body for language, body in FENCE.findall(read(path)) if language in languages]


def prose(path: Path) -> str:
    return FENCE.sub("", read(path))


def command_lines(path: Path) -> list[list[str]]:
    """The words of each shell command in the document's console blocks, without variables in front."""
    lines = "\n".join(blocks(path, "console", "bash", "sh")).replace("\\\n", " ").splitlines()
    found = [shlex.split(line, comments=True) for line in lines]
    return [
        list(itertools.dropwhile(lambda word: re.match(r"\w+=", word), words)) for words in found if words
    ]


def command(verb: str) -> Any:
    found: Any = typer.main.get_command(application(verb.split()))
    for word in verb.split():
        found = found.get_command(None, word)
    return found


def verb_of(words: list[str]) -> tuple[str, list[str]]:
    """The verb, of one word or two, that words begin with, and the rest."""
    length = 2 if " ".join(words[:2]) in VERBS else 1
    return " ".join(words[:length]), words[length:]


def options(verb: str) -> set[str]:
    return {"--help"} | {option for parameter in command(verb).params for option in parameter.opts}


def by_name(paths: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        "path", paths, ids=[f"ko/{path.name}" if path.parent.name == "ko" else path.name for path in paths]
    )


@by_name(DOCUMENTS)
def test_every_command_line_is_understood(path: Path) -> None:
    for words in command_lines(path):
        if words[0] != "packtrain" or words[1:] == ["--help"]:
            continue
        verb, rest = verb_of(words[1:])
        assert verb in VERBS, words
        context = command(verb).make_context(verb, rest)
        overrides = context.params.get("set_") or ()
        if verb == "plan":
            _, overrides = split(overrides)  # which knows the plan's own keys
        for override in overrides:
            assert override.partition("=")[0] in FIELDS, words
        if verb == "init" and context.params["template"]:
            assert context.params["template"] in TEMPLATES, words


@by_name(DOCUMENTS)
def test_every_command_in_a_sentence_has_its_verb_and_options(path: Path) -> None:
    for span in re.findall(r"`packtrain ([^`-][^`]*)`", prose(path)):
        verb, words = verb_of(span.split())
        assert verb in VERBS, span
        assert {word.partition("=")[0] for word in words if word.startswith("-")} <= options(verb), span


@by_name(DOCUMENTS)
def test_every_make_target_is_there(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", read(ROOT / "Makefile"), re.MULTILINE)) | {"test", "test-long"}
    named = {words[1] for words in command_lines(path) if words[0] == "make"}
    named |= set(re.findall(r"`make ([a-z-]+)`", prose(path)))
    assert named <= targets


def test_every_verb_and_option_is_explained() -> None:
    readme = read(READMES[0])
    assert [verb for verb in VERBS if not re.search(rf"packtrain {verb}\b", readme)] == []
    text = "\n".join(read(path) for path in DOCUMENTS)
    for verb in VERBS:
        missing = {
            option
            for option in options(verb)
            if option.startswith("--") and not re.search(rf"{option}\b", text)
        }
        assert not missing - {"--set", "--verbose"}, verb  # known by -s and -v


def same_document(english: Path, korean: Path) -> None:
    """Equal in commands, and in the number of headings, rows and points."""
    assert FENCE.findall(read(english)) == FENCE.findall(read(korean))
    for pattern in (r"^#+ ", r"^\|.*\|$", r"^- ", r"^\d+\. "):
        counts = [re.findall(pattern, prose(path), re.MULTILINE) for path in (english, korean)]
        assert len(counts[0]) == len(counts[1]), pattern
    headings = [re.findall(r"^#+ ", prose(path), re.MULTILINE) for path in (english, korean)]
    assert headings[0] == headings[1]


def test_the_readmes_are_one_document_in_two_languages() -> None:
    english, korean = READMES
    same_document(english, korean)
    own = {"README.md", "README.ko.md"}
    assert sorted(set(LINK.findall(read(english))) - own) == sorted(set(LINK.findall(read(korean))) - own)
    assert len(read(english).splitlines()) <= 200
    assert f"packtrain-{__version__}-py3-none-any.whl" in read(english)


@by_name(KOREAN)
def test_a_korean_page_says_what_the_english_one_says(path: Path) -> None:
    english = ROOT / "docs" / path.name
    same_document(english, path)
    targets = [
        {
            (page.parent / link.partition("#")[0]).resolve().stem.partition(".")[0]
            for link in LINK.findall(read(page))
        }
        for page in (english, path)
    ]
    assert targets[0] == targets[1]


@by_name(DOCUMENTS)
def test_relative_links_lead_somewhere(path: Path) -> None:
    for link in LINK.findall(prose(path)):
        if link.startswith(("https://", "http://")):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", prose(target), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}


def test_the_guide_is_found_from_the_readme_and_its_index() -> None:
    index = ROOT / "docs" / "index.md"
    assert "docs/index.md" in LINK.findall(read(READMES[0]))
    pages = {path.relative_to(index.parent).with_suffix("").as_posix() for path in GUIDE if path != index}
    assert {f"{page}.md" for page in pages} <= set(LINK.findall(read(index)))
    listed = re.findall(r"^```\{toctree\}\n(.*?)^```$", read(index), re.MULTILINE | re.DOTALL)
    in_the_site = [line for body in listed for line in body.split() if not line.startswith(":")]
    assert pages <= set(in_the_site)


def test_the_quickstart_shows_what_init_writes() -> None:
    (shown,) = blocks(ROOT / "docs" / "quickstart.md", "yaml")
    written = yaml.safe_load(read(ROOT / "src" / "packtrain" / "examples" / "quickstart.yaml"))
    for section, value in yaml.safe_load(shown).items():
        assert (
            value.items() <= written[section].items()
            if isinstance(value, dict)
            else value == written[section]
        )


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-d", str(tmp_path / "trees")]
    built = subprocess.run(
        [*words, str(ROOT / "docs"), str(tmp_path / "site")], capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    for path in GUIDE:
        page = path.relative_to(ROOT / "docs").with_suffix(".html")
        assert (tmp_path / "site" / page).stat().st_size > 0


@by_name(GUIDE)
def test_tables_that_are_made_from_the_code_are_up_to_date(path: Path) -> None:
    if os.environ.get("PACKTRAIN_UPDATE"):
        path.write_text(renewed(read(path)), encoding="utf-8")
    assert read(path) == renewed(read(path)), "renew them with PACKTRAIN_UPDATE=1"


def test_every_table_has_a_place() -> None:
    placed = [block["name"] for path in GUIDE for block in BLOCK.finditer(read(path))]
    assert sorted(placed) == sorted(generated())
    text = read(ROOT / "docs" / "run-file.md")
    assert [key for key in FIELDS if f"| `{key}` |" not in text] == []


@by_name(READMES)
def test_the_short_exit_code_table_says_what_the_code_does(path: Path) -> None:
    rows = re.findall(r"^\| ([\d, ]+) \| .* \| (.+) \|$", prose(path), re.MULTILINE)
    retried = {int(code): again for codes, again in rows for code in codes.split(",")}
    assert retried.keys() == {0, *BY_EXIT_CODE}
    for code, kind in BY_EXIT_CODE.items():
        assert (retried[code] in ("no", "아니요")) == (kind.retry == "no"), code
    assert set(TRIED_AGAIN) == {"no", "yes", "counted"}


@by_name(DOCUMENTS)
def test_yaml_is_a_run_file_or_a_part_of_one(path: Path) -> None:
    least: dict[str, Any] = {"name": "a", "model": {"source": "m"}, "data": {"train": "t.jsonl"}}
    for block in blocks(path, "yaml"):
        part = yaml.load(block, _Loader)  # noqa: S506  (packtrain's own safe loader: 2e-4 is a number)
        assert part.keys() <= {*SECTIONS, *FIELDS}
        sections = {
            key: value if isinstance(value, str) else {**least.get(key, {}), **value}
            for key, value in part.items()
        }
        RunConfig.model_validate(least | sections)


@by_name([*READMES, ROOT / "docs" / "data.md"])
def test_the_row_of_each_format_is_one(path: Path) -> None:
    rows = dict(re.findall(r"^\| `([\w-]+)` \| `(\{.*\})` \|", read(path), re.MULTILINE))
    assert rows.keys() == FORMATS.keys()
    for name, text in rows.items():
        fields = json.loads(text)
        assert detect_format(fields) == name
        to_conversation(Row("a.jsonl:1", fields), name)


def test_results_name_every_file_and_every_field_of_a_receipt() -> None:
    text = read(ROOT / "docs" / "results.md")
    files = {adapter_files.CONFIG, adapter_files.WEIGHTS, adapter_files.CARD, adapter_files.TRAINING, CLAIM}
    wanted = files | set(tokenizer_files.COPIED)
    wanted |= set(Receipt.__dataclass_fields__) | set(FileFacts.__dataclass_fields__)
    assert [name for name in sorted(wanted) if f"`{name}`" not in text] == []


def test_the_events_are_all_there() -> None:
    kinds = re.findall(r"^\| `(\w+)` \|", read(ROOT / "docs" / "events.md"), re.MULTILINE)
    assert set(kinds) >= KINDS


def test_environment_variables_are_explained() -> None:
    text = "\n".join(read(path) for path in GUIDE)
    sources = "\n".join(read(path) for path in (ROOT / "src").rglob("*.py"))
    used = set(re.findall(r"\b(?:PACKTRAIN_[A-Z]+|STORAGE_EMULATOR_HOST|HF_TOKEN|NO_COLOR)\b", sources))
    assert {name for name in used if name not in text} == set()


@by_name(DOCUMENTS)
def test_python_blocks_compile(path: Path) -> None:
    for block in blocks(path, "python"):
        compile(block, path.name, "exec")
