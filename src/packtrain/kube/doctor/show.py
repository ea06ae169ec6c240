"""A report as people read it: one finding after the other as compilers print them, then how many."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from packtrain.kube.doctor.lint import Report
from packtrain.kube.doctor.rule import SEVERITIES, Finding, Rule


def lines(report: Report) -> Iterator[str]:
    told: set[str] = set()
    for finding in report.findings:
        yield from _finding(finding, first=finding.rule.id not in told)
        told.add(finding.rule.id)
    yield summary(report)


def _finding(finding: Finding, *, first: bool) -> Iterator[str]:
    """``first``: of its rule; what to do is not said again."""
    line = f":{finding.line}" if finding.line else ""
    rule = finding.rule
    yield f"{finding.document.source}{line}: {rule.severity} {rule.id}: {finding.sentence}"
    if where := " ".join(part for part in (finding.document.title, finding.path) if part):
        yield f"    at   {where}"
    if first:
        yield f"    fix  {rule.fix}"
        yield f"    see  {rule.source}"


def summary(report: Report) -> str:
    judged = [(report.pods, "pod template"), (report.pools, "node pool"), (report.policies, "policy")]
    parts = [_count(number, noun) for number, noun in judged if number]
    looked = _count(report.documents, "document") + (f" ({', '.join(parts)})" if parts else "")
    found = [_count(report.count(severity), severity) for severity in SEVERITIES if report.count(severity)]
    return f"{', '.join(found) or 'nothing found'} in {looked}"


def _count(number: int, noun: str) -> str:
    if number == 1:
        return f"1 {noun}"
    return f"{number} {noun.removesuffix('y')}ies" if noun.endswith("y") else f"{number} {noun}s"


def to_json(report: Report) -> dict[str, Any]:
    return {
        "findings": [finding.to_json() for finding in report.findings],
        "summary": {severity: report.count(severity) for severity in SEVERITIES}
        | {
            "documents": report.documents,
            "pod_templates": report.pods,
            "node_pools": report.pools,
            "policies": report.policies,
        },
    }


def rules_to_json(rules: Sequence[Rule[Any]]) -> list[dict[str, str]]:
    return [
        {
            "id": rule.id,
            "severity": rule.severity,
            "title": rule.title,
            "fix": rule.fix,
            "source": rule.source,
        }
        for rule in rules
    ]
