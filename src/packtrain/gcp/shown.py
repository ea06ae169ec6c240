"""What the cloud verbs print: the plan as a table, the commands as a script."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from typing import Any

from packtrain.gcp.carry_out import Planned
from packtrain.gcp.check import Finding
from packtrain.gcp.cluster import credentials_step
from packtrain.gcp.commands import Command, script
from packtrain.gcp.destroy import Undoing
from packtrain.gcp.inside import TOKEN
from packtrain.gcp.looks import ask_build_account
from packtrain.gcp.site import BUILD_ACCOUNT, PROJECT_NUMBER, ZONE, Site
from packtrain.gcp.steps import Step

WORDS = {
    "there": "there",
    "make": "to make",
    "differs": "differs",
    "later": "to make",
    "yours": "for you",
    "refused": "refused",
}
Row = tuple[str, str, str, str | None]


def plan_rows(planned: Sequence[Planned]) -> list[Row]:
    return [(WORDS[each.seen.state], each.step.title, each.seen.sentence, each.seen.hint) for each in planned]


def undo_rows(planned: Sequence[Undoing]) -> list[Row]:
    words = {"remove": "remove", "leave": "leave", "gone": "not there"}
    return [(words[each.undo.action], each.step.title, each.undo.sentence, None) for each in planned]


def finding_rows(findings: Sequence[Finding]) -> list[Row]:
    return [(each.verdict, each.title, each.sentence, each.hint) for each in findings]


def rows_json(rows: Sequence[Row]) -> list[dict[str, str | None]]:
    """The same for programs."""
    return [dict(zip(("state", "title", "sentence", "hint"), row, strict=True)) for row in rows]


def commands_json(steps: Sequence[tuple[str, Sequence[Command]]]) -> list[dict[str, Any]]:
    """Commands by the title of their step; ``$NAME`` in them is for whoever runs them to fill in."""
    return [
        {"step": title, "argv": list(command.argv), "stdin": command.stdin, "values": list(command.values)}
        for title, commands in steps
        for command in commands
    ]


def table(rows: Sequence[Row]) -> list[str]:
    """Lines with aligned columns; a hint on a line of its own."""
    first = max((len(state) for state, *_ in rows), default=0)
    second = max((len(title) for _, title, *_ in rows), default=0)
    lines = []
    for state, title, sentence, hint in rows:
        lines.append(f"{state:<{first}}  {title:<{second}}  {sentence}")
        if hint:
            lines.append(f"{'':<{first}}    {hint}")
    return lines


def setup_script(site: Site, steps: Sequence[Step]) -> str:
    """All commands of a setup from nothing, ready to copy: those that ``setup`` runs."""
    ask = f"{PROJECT_NUMBER}=\"$(gcloud projects describe {site.project} --format='value(projectNumber)')\""
    lines = [f"export KUBECONFIG={shlex.quote(str(site.kubeconfig))}", ask]
    made = [step for step in steps if step.make]
    if any(TOKEN in command.values for step in made for command in step.make):
        lines.append(f"# {TOKEN}: set it from a file or a password manager, so that no history has it")
    if any(ZONE in command.values for step in made for command in step.make):
        lines.append(f"# {ZONE}: set it to the zone of the nodes, or name it with --zone")
    for number, step in enumerate(made, start=1):
        lines += ["", f"# {number}. {step.title}: {step.reason}", *_build_account(site, step.make, lines)]
        if step.make[0].argv[0] == "kubectl" and kubeconfig(site) != str(site.kubeconfig):
            lines += [f"export KUBECONFIG={shlex.quote(kubeconfig(site))}"]
        lines += [script(step.make)]
    return "\n".join(lines)


def kubeconfig(site: Site) -> str:
    return os.environ.get("PACKTRAIN_KUBECONFIG") or str(site.kubeconfig)


def undo_script(site: Site, planned: Sequence[Undoing]) -> str:
    """The commands of a destroy of what is there now."""
    ask = f"{PROJECT_NUMBER}=\"$(gcloud projects describe {site.project} --format='value(projectNumber)')\""
    lines = [f"export KUBECONFIG={shlex.quote(kubeconfig(site))}", ask]
    way_in = credentials_step(site)
    removed = [command for each in planned if each.undo.action == "remove" for command in each.undo.commands]
    if way_in and any(command.argv[0] == "kubectl" for command in removed):
        lines += [script(way_in.make)]
    for each in planned:
        if each.undo.action == "remove":
            asked = _build_account(site, each.undo.commands, lines)
            lines += ["", f"# {each.step.title}", *asked, script(each.undo.commands)]
    return "\n".join(lines)


def _build_account(site: Site, commands: Sequence[Command], before: Sequence[str]) -> list[str]:
    """The line that asks for the account that builds: once, and not before Cloud Build is enabled."""
    line = f'{BUILD_ACCOUNT}="$({ask_build_account(site).shown()})"'
    wanted = any(BUILD_ACCOUNT in command.values for command in commands)
    return [line] if wanted and line not in before else []
