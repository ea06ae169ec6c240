"""The tables of the guide that are made from the code: keys of a run file, exit codes, the doctor's rules."""

from __future__ import annotations

import re
from typing import Any

from goldens import goldens
from setup_tables import setup_tables

from packtrain.errors import ALL
from packtrain.kube.doctor.rules import ALL as DOCTOR_RULES
from packtrain.kube.fabrics import fabric_of
from packtrain.plan.machines import GIB, machines, price_per_hour
from packtrain.runfile import schema
from packtrain.runfile.document import dump_yaml

BLOCK = re.compile(
    r"(?P<begin><!-- made from the code: (?P<name>[\w.-]+) -->\n).*?(?P<end><!-- end -->)", re.DOTALL
)
TRIED_AGAIN = {"no": "no", "yes": "yes", "counted": "yes, within a limit"}


def renewed(text: str) -> str:
    """A document with its generated blocks as the code has them now."""
    tables = generated()
    return BLOCK.sub(lambda block: f"{block['begin']}\n{tables[block['name']]}\n{block['end']}", text)


def generated() -> dict[str, str]:
    """Name of a block -> its Markdown table."""
    whole = schema()
    definitions: dict[str, Any] = whole["$defs"]
    tables = {"top": _keys({"name": whole["properties"]["name"]}, whole["required"], "")}
    for section, reference in whole["properties"].items():
        if "$ref" in reference:
            definition = definitions[_target(reference)]
            tables[section] = _keys(definition["properties"], definition.get("required", []), f"{section}.")
    fail_if, prompt = definitions["FailIf"], definitions["Prompt"]
    tables["evaluate.fail_if"] = _keys(fail_if["properties"], [], "evaluate.fail_if.")
    tables["prompt"] = _keys(prompt["properties"], prompt["required"], "")
    item = definitions["DataSource"]
    tables["mixture"] = _keys(item["properties"], item["required"], "")
    tables |= {"exit-codes": _exit_codes(), "doctor-rules": _doctor_rules(), "machines": _machines()}
    tables |= setup_tables()
    return tables | {"manifest.one-node": f"```yml\n{goldens()['one-node']}```\n"}


def _exit_codes() -> str:
    rows = [(0, "no", "Done: the adapter is verified, and where it should be.")]
    rows += [(kind.exit_code, TRIED_AGAIN[kind.retry], (kind.__doc__ or "").strip()) for kind in ALL]
    lines = ["| code | meaning | try again? |", "| --- | --- | --- |"]
    return "\n".join(lines + [f"| {code} | {meaning} | {retry} |" for code, retry, meaning in rows]) + "\n"


def _doctor_rules() -> str:
    lines = ["| id | severity | what is wrong | what to do |", "| --- | --- | --- | --- |"]
    for rule in DOCTOR_RULES:
        fix = rule.fix.replace("|", "\\|").replace("<", "&lt;")
        lines.append(f"| {rule.id} | {rule.severity} | [{rule.title}]({rule.source}) | {fix} |")
    return "\n".join(lines) + "\n"


def _machines() -> str:
    lines = [
        "| machine | GPUs | vCPUs | GiB | local SSDs | several nodes | USD/h on demand | USD/h Spot |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for each in machines().values():
        prices = [price_per_hour(each, capacity).usd for capacity in ("on-demand", "spot")]
        cells = [
            *(f"`{each.name}`", f"{each.gpus} × {each.gpu_name}", str(each.vcpus), f"{each.memory // GIB:,}"),
            f"{each.local_ssds}{'' if each.bundled_ssds else ' (chosen)'}",
            fabric.name if (fabric := fabric_of(each)) else "plain network",
            *("unknown" if usd is None else f"{usd:,.2f}" for usd in prices),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _keys(properties: dict[str, Any], required: list[str], prefix: str) -> str:
    lines = ["| key | values | default | meaning |", "| --- | --- | --- | --- |"]
    for name, facts in properties.items():
        if "$ref" in facts:
            continue  # a section of its own, with a table of its own
        default = "required" if name in required else f"`{_yaml(facts.get('default'))}`"
        meaning = " ".join(facts["description"].split())
        lines.append(f"| `{prefix}{name}` | {_values(facts)} | {default} | {meaning} |")
    return "\n".join(lines) + "\n"


def _values(facts: dict[str, Any]) -> str:
    if "anyOf" in facts:
        branches = [_values(branch) for branch in facts["anyOf"] if branch.get("type") != "null"]
        return " or ".join(dict.fromkeys(branches))
    if "enum" in facts or "const" in facts:
        return ", ".join(f"`{value}`" for value in facts.get("enum", [facts.get("const")]))
    kind = {
        "string": "text",
        "boolean": "`true`, `false`",
        "array": "list",
        "object": "keys and values",
        "integer": "whole number",
        "number": "number",
    }[facts["type"]]
    limits = [
        f"{sign} {facts[key]:,g}" if facts[key] < 1e6 else f"{sign} {facts[key]:,}"
        for key, sign in (
            ("minimum", "≥"),
            ("exclusiveMinimum", ">"),
            ("maximum", "≤"),
            ("exclusiveMaximum", "<"),
        )
        if key in facts and facts[key] < 2**62
    ]
    return f"{kind} {', '.join(limits)}".rstrip()


def _yaml(value: Any) -> str:
    return dump_yaml({"k": value}).removeprefix("k:").strip()


def _target(reference: dict[str, Any]) -> str:
    return str(reference["$ref"]).rpartition("/")[2]
