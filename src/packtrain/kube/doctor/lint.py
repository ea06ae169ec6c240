"""All rules over all documents: the doctor, without files and terminals."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from packtrain.kube.doctor import gcloud, workloads
from packtrain.kube.doctor.documents import Document
from packtrain.kube.doctor.rule import SEVERITIES, Finding, Rule, Severity
from packtrain.kube.doctor.rules import ALL


@dataclass(frozen=True)
class Report:
    findings: tuple[Finding, ...]
    """By file and line."""
    documents: int
    pods: int
    """Pod templates among them."""
    pools: int
    policies: int

    def count(self, severity: Severity) -> int:
        return sum(finding.rule.severity == severity for finding in self.findings)


def lint(bundles: Iterable[Sequence[Document]], rules: Sequence[Rule[Any]] = ALL) -> Report:
    """Judges documents; those of one bundle are judged together."""
    findings: list[Finding] = []
    count = pods = pools = policies = 0
    for documents in bundles:
        bundle = workloads.Bundle(tuple(documents))
        for document in documents:
            found = list(targets(document, bundle))
            count += 1
            pods += sum(isinstance(target, workloads.Pod) for target in found)
            pools += sum(isinstance(target, gcloud.NodePool) for target in found)
            policies += any(isinstance(target, gcloud.Binding) for target in found)
            findings += [
                Finding(rule, document, where, sentence)
                for target in found
                for rule in rules
                if isinstance(target, rule.target)
                for where, sentence in rule.check(target)
            ]
    findings = list(
        {
            (each.document.source, each.where.path, each.rule.id, each.sentence, each.line): each
            for each in findings
        }.values()
    )
    findings.sort(
        key=lambda each: (
            each.document.source,
            each.line or 0,
            SEVERITIES.index(each.rule.severity),
            each.rule.id,
        )
    )
    return Report(tuple(findings), count, pods, pools, policies)


def targets(document: Document, bundle: workloads.Bundle) -> Iterator[object]:
    """Everything in a document that rules judge."""
    yield document
    yield from workloads.pods_of(document, bundle)
    yield from workloads.jobs_of(document, bundle)
    yield from workloads.jobsets_of(document, bundle)
    yield from gcloud.clusters_of(document)
    yield from gcloud.pools_of(document)
    yield from gcloud.bindings_of(document)
