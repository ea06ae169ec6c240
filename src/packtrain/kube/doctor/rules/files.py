"""Rules on the files themselves: what cannot be read cannot be judged."""

from __future__ import annotations

from collections.abc import Iterator

from packtrain.kube.doctor import sources
from packtrain.kube.doctor.documents import Document
from packtrain.kube.doctor.rule import Problem, rule


@rule(
    Document,
    "PT101",
    "error",
    "A file that is neither YAML nor JSON",
    source=sources.YAML,
    fix="Correct the file; kubectl would not read it either.",
)
def unreadable(document: Document) -> Iterator[Problem]:
    if document.unreadable:
        yield document.root, f"the file cannot be read: {document.unreadable}"


@rule(
    Document,
    "PT102",
    "warning",
    "A template, not a manifest",
    source=sources.HELM,
    fix="Render it first: helm template CHART | packtrain doctor -",
)
def template(document: Document) -> Iterator[Problem]:
    if document.template:
        yield document.root, "a template of Helm, Go, Jinja or Terraform: nothing in it was checked"


RULES = (unreadable, template)
