"""The tables and the commands of docs/cloud-setup.md, made from the steps themselves."""

from __future__ import annotations

from pathlib import Path

from setups import site

from packtrain.gcp.permissions import NEEDED, role_for
from packtrain.gcp.setup import Options, steps

COMMANDS = Path(__file__).parent / "gcp" / "golden" / "setup-direct.sh"


def setup_tables() -> dict[str, str]:
    """Name of a block -> its Markdown."""
    return {
        "cloud-setup-steps": _steps(),
        "cloud-setup-rights": _rights(),
        "cloud-setup-commands": f"```shell\n{COMMANDS.read_text()}```\n",
    }


def _steps() -> str:
    """Of two nodes, a queue and the classical identity: every step that there is."""
    of = site(nodes=2, queue="team")
    lines = ["| step | why | made by |", "| --- | --- | --- |"]
    for step in steps(of, Options(via_service_account=True, has_token=True)):
        programs = dict.fromkeys(command.argv[0] for command in step.make)
        lines.append(f"| {step.title} | {step.reason} | {', '.join(programs) or 'you'} |")
    return "\n".join(lines) + "\n"


def _rights() -> str:
    lines = ["| for | permission | in the role |", "| --- | --- | --- |"]
    for part, permissions in NEEDED.items():
        lines += [f"| {part} | `{each}` | `{role_for(each)}` |" for each in permissions]
    return "\n".join(lines) + "\n"
