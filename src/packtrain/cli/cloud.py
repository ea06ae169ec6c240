"""``packtrain cloud setup | check | destroy``: a project from nothing to ready, a look at it, and back."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from packtrain.cli.output import confirm, note, print_json

if TYPE_CHECKING:
    from packtrain.gcp.commands import Command
    from packtrain.gcp.session import Session
    from packtrain.gcp.steps import Seen, Step

Run = Annotated[Path, typer.Argument(help="The run file.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Option("-s", "--set", help="Override a key, such as cluster.nodes=2.", metavar="KEY=VALUE"),
]
Via = Annotated[
    bool,
    typer.Option("--via-service-account", help="The classical way: through an IAM service account."),
]
CreateCluster = Annotated[bool, typer.Option("--create-cluster", help="Make the cluster if it is not there.")]
CreatePool = Annotated[bool, typer.Option("--create-pool", help="Make the GPU node pool if it is not there.")]
Zone = Annotated[
    str | None, typer.Option(help="Zone of the nodes, where the cluster is a region's.", metavar="ZONE")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the commands, ready to copy, and end.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def setup(
    run: Run,
    set_: Overrides = None,
    via_service_account: Via = False,
    create_cluster: CreateCluster = False,
    create_pool: CreatePool = False,
    zone: Zone = None,
    token_stdin: Annotated[
        bool, typer.Option("--token-stdin", help="Read the Hugging Face token from stdin.")
    ] = False,
    wait: Annotated[
        str, typer.Option(help="How long new rights may take to come into force.", metavar="DURATION")
    ] = "5m",
    dry_run: DryRun = False,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Bring a project from nothing to ready for a run file, step by step.

    Shows what is there and what it will make, asks, and goes on where it stopped when run again.
    """
    from packtrain.gcp.carry_out import Patience, carry_out, obstacle, plan
    from packtrain.gcp.session import find_token
    from packtrain.gcp.setup import Options, steps
    from packtrain.gcp.shown import commands_json, plan_rows, rows_json, setup_script, table

    patience = Patience(_seconds(wait))
    token = None if dry_run else find_token(sys.stdin if token_stdin else None)
    session = _session(run, set_, token)
    options = Options(
        via_service_account=via_service_account,
        create_cluster=create_cluster,
        create_pool=create_pool,
        zone=zone,
        has_token=dry_run or session.has_token,
        renew_token=token_stdin,
    )
    if dry_run:
        left_out = {"cluster": create_cluster, "pool": create_pool}
        wanted = [each for each in steps(session.site, options) if left_out.get(each.key, True)]
        if json:
            print_json({"commands": commands_json([(each.title, each.make) for each in wanted])})
        else:
            typer.echo(setup_script(session.site, wanted))
        return
    session.begin()
    report = _Report()
    planned = plan(steps(session.site, options), session.runner, session.journal, report)
    report.looked()
    for line in table(plan_rows(planned)):
        typer.echo(line, err=json)
    stop = obstacle(planned)
    if stop is not None:
        raise stop
    making = [each for each in planned if each.seen.state in {"make", "later"}]
    if making:
        confirm(f"Make {len(making)} of these in project {session.site.project}?", yes=yes)
        planned = carry_out(planned, session.runner, session.journal, report, patience)
    if json:
        print_json({"steps": rows_json(plan_rows(planned))})
    else:
        _print_end([(each.step, each.seen) for each in planned], run)


def check(
    run: Run,
    set_: Overrides = None,
    via_service_account: Via = False,
    zone: Zone = None,
    from_cluster: Annotated[
        bool, typer.Option("--from-cluster", help="Ask from a pod, too, what it may use.")
    ] = False,
    json: Json = False,
) -> None:
    """Look, and change nothing: rights, what setup makes, quota, zones, versions.

    Exit code 0 where a run can go; 77, 76 or 78 where access, quota or a piece is missing.
    """
    from packtrain.gcp.carry_out import plan
    from packtrain.gcp.check import from_plan, look_around, worst
    from packtrain.gcp.session import find_token
    from packtrain.gcp.setup import Options, steps
    from packtrain.gcp.shown import finding_rows, table

    session = _session(run, set_, find_token(None))
    session.begin()
    options = Options(via_service_account=via_service_account, zone=zone, has_token=session.has_token)
    report = _Report()
    planned = plan(steps(session.site, options), session.runner, session.journal, report)
    report.looked()
    findings = [*from_plan(planned), *look_around(session.site, options, session.runner)]
    if from_cluster:
        from packtrain.kube.from_cluster import findings_from_cluster
        from packtrain.kube.submit import World
        from packtrain.runfile import load

        config = load(run, set_ or []).config
        findings += findings_from_cluster(config, World(note, session.runner))
    code = worst(findings)
    if json:
        print_json({"exit_code": code, "findings": [finding.to_json() for finding in findings]})
    else:
        for line in table(finding_rows(findings)):
            typer.echo(line)
    raise typer.Exit(code)


def destroy(
    run: Run,
    set_: Overrides = None,
    delete_data: Annotated[
        bool, typer.Option("--delete-data", help="Also a bucket of packtrain's that has objects.")
    ] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Remove what setup made, by its labels; list what stays and why."""
    from packtrain.gcp.destroy import refuse_while_running, take_back, undo_plan, undo_steps
    from packtrain.gcp.setup import Options
    from packtrain.gcp.shown import commands_json, rows_json, table, undo_rows, undo_script

    session = _session(run, set_, None)
    session.begin()
    report = _Report()
    options = Options(delete_data=delete_data)
    planned = undo_plan(undo_steps(session.site, options), session.runner, session.journal, report)
    report.looked()
    removing = [each for each in planned if each.undo.action == "remove"]
    if dry_run and json:
        print_json({"commands": commands_json([(each.step.title, each.undo.commands) for each in removing])})
        return
    if dry_run:
        typer.echo(undo_script(session.site, planned))
        return
    for line in table(undo_rows(planned)):
        typer.echo(line, err=json)
    if removing:
        refuse_while_running(session.site, session.runner)
        confirm(f"Remove {len(removing)} of these from project {session.site.project}, for good?", yes=yes)
        take_back(planned, session.site, session.runner, session.journal, report)
    if json:
        print_json({"steps": rows_json(undo_rows(planned))})
    else:
        typer.echo(f"Removed {len(removing)}." if removing else "There is nothing to remove.")


def _session(run: Path, overrides: list[str] | None, token: str | None) -> Session:
    from packtrain.gcp.session import open_session
    from packtrain.runfile import load

    return open_session(load(run, overrides or []).config, token)


def _seconds(duration: str) -> float:
    from packtrain.config import seconds
    from packtrain.errors import UsageError

    try:
        return seconds(duration)
    except ValueError as error:
        raise UsageError(f"--wait {duration}: {error}") from None


def _print_end(ended: list[tuple[Step, Seen]], run: Path) -> None:
    yours = [(step, seen) for step, seen in ended if seen.state in {"yours", "differs"}]
    for step, seen in yours:
        typer.echo(f"left for you: {step.title}: {seen.sentence}")
        if seen.hint:
            typer.echo(f"  {seen.hint}")
    typer.echo(f"Ready. Next: packtrain image build {run}, then packtrain submit {run}")


class _Report:
    """Progress on stderr: a line a step, rewritten in a terminal while it is looked at."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._began: float | None = None

    def looking(self, step: Step) -> None:
        if self._live:
            typer.echo(f"\r\033[Klooking at {step.title}", err=True, nl=False)

    def looked(self) -> None:
        """All is looked at: the line that told of it goes."""
        if self._live:
            typer.echo("\r\033[K", err=True, nl=False)

    def making(self, step: Step, command: Command) -> None:
        if self._began is None:
            self._began = time.monotonic()
        first = command.shown().splitlines()[0].removesuffix("\\")
        note(f"{step.title}: {first.partition(' <<')[0].rstrip()}")

    def waiting(self, step: Step, why: str) -> None:
        note(f"{step.title}: waiting ({why})")

    def done(self, step: Step, seen: Seen) -> None:
        """Nothing is told of what was there: the plan has it."""
        if self._began is not None:
            note(f"{step.title}: {seen.sentence} ({time.monotonic() - self._began:.0f} s)")
        self._began = None
