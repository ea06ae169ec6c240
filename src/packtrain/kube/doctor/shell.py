"""What can be told of a shell script without running it: what is its last command, and what a signal does.

Not a shell's grammar: sentences about the few forms that launch scripts have. Where a form is not
understood, nothing is said.
"""

from __future__ import annotations

import re

#: Programs that start workers and end with 1, whatever the worker ended with.
LAUNCHERS = re.compile(r"(?:^|[\s/;&|(])(torchrun|torch\.distributed\.(?:run|launch)|accelerate\s+launch)\b")
_TERM = r"(?:SIG)?TERM|15"
_TRAP = re.compile(
    r"""^\s*trap\s+(?:--\s+)?(?:'(?P<single>[^']*)'|"(?P<double>[^"]*)"|(?P<name>\w+))"""
    r"""\s+(?P<signals>[\w \t]+)""",
    re.MULTILINE,
)
_PYTHON_EXIT = re.compile(r"signal\.SIGTERM\s*,\s*lambda[^:]*:\s*(?:sys\.|os\._?)?exit\(\s*0?\s*\)")


def commands(script: str) -> list[str]:
    """The script's commands, a line or a part between ``;`` each, without comments and here-documents."""
    script = re.sub(r"<<-?\s*['\"]?(\w+)['\"]?([^\n]*)\n.*?^\s*\1\s*$", r"\2", script, flags=re.S | re.M)
    script = re.sub(r"\\\n", " ", script)
    found = []
    for line in script.splitlines():
        line = re.sub(r"(^|\s)#.*$", "", line)  # noqa: PLW2901
        found += [part.strip() for part in re.split(r";(?!;)|&&", _unquoted(line))]
    return [command for command in found if command and command not in ("}", "{")]


def _unquoted(line: str) -> str:
    """The line with what stands in quotes replaced, so that separators inside it do not count."""
    return re.sub(r"'[^']*'|\"(?:[^\"\\]|\\.)*\"", lambda quoted: re.sub(r"[;&|#]", "_", quoted[0]), line)


def hides_exit_code(script: str) -> str:
    """The last command, where its pipe or ``|| true`` makes failure a success; else empty."""
    last = commands(script)[-1:]
    if not last:
        return ""
    command = last[0]
    if re.search(r"\|\|\s*(?:true|:|exit\s+0|echo\b[^|]*)$", command):
        return command
    if re.search(r"[^|]\|[^|]", command) and "pipefail" not in script:
        return command
    return ""


def sleeps_for_ever(script: str) -> bool:
    return any(
        re.match(
            r"(?:exec\s+)?(?:/bin/)?(?:sleep\s+(?:infinity|inf|\d{6,}|\d+[dD])\b|tail\s+-[fF]\s+/dev/null)",
            each,
        )
        for each in commands(script)
    )


def forwards_signals(script: str) -> bool:
    """Whether the training hears SIGTERM though the shell is the first process: it is the shell's only
    command, or replaces it (exec), or a trap passes the signal on."""
    found = [
        each
        for each in commands(script)
        if not re.match(r"(?:set|export|cd|ulimit|source|\.)\b|\w+=\S*$", each)
    ]
    if len(found) <= 1 and len(commands(script)) <= 1 and "|" not in script:
        return True
    return bool(re.search(r"(?:^|[\s;&])(?:exec\s+[^<>&\d\s]|trap\s)|\b(?:tini|dumb-init)\b", script, re.M))


def exits_zero_on_sigterm(script: str) -> bool:
    """Whether a trap on SIGTERM (or a handler in a Python one-liner) ends with success."""
    if _PYTHON_EXIT.search(script):
        return True
    for found in _TRAP.finditer(script):
        if not re.search(rf"(?:^|\s)(?:{_TERM})(?:\s|$)", found["signals"].strip()):
            continue
        body = found["single"] if found["single"] is not None else found["double"]
        name = found["name"] or (body.strip() if re.fullmatch(r"\s*\w+\s*", body or "") else None)
        if name:
            body = _function(script, name) or body
        if body and re.search(r"(?:^|[;&|{\s])exit\s+0\b", body):
            return True
    return False


def _function(script: str, name: str) -> str:
    """The body of a shell function: to the brace that closes it."""
    begin = re.search(rf"^\s*(?:function\s+{name}\b\s*(?:\(\))?|{name}\s*\(\))\s*[{{(]", script, re.M)
    if begin is None:
        return ""
    depth, start = 1, begin.end()
    for index in range(start, len(script)):
        depth += {"{": 1, "(": 1, "}": -1, ")": -1}.get(script[index], 0)
        if depth == 0:
            return script[start:index]
    return ""
