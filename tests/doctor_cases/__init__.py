"""For each rule of the doctor a document that it finds fault with, and a near miss that it does not."""

from __future__ import annotations

from doctor_cases import fabrics, files, gcloud, jobs, pods, queues, security, tcpxo
from doctor_cases.kit import Case

ALL: tuple[Case, ...] = (
    *files.CASES,
    *pods.CASES,
    *jobs.CASES,
    *tcpxo.CASES,
    *fabrics.CASES,
    *security.CASES,
    *queues.CASES,
    *gcloud.CASES,
)
