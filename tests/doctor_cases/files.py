"""Cases of the rules on files (PT1)."""

from __future__ import annotations

from doctor_cases.kit import Case

HELM = """
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ .Release.Name }}
spec: {{- toYaml .Values.spec | nindent 2 }}
"""
SCRIPT = """
apiVersion: v1
kind: ConfigMap
metadata: {name: a}
data:
  format.sh: |
    docker inspect --format '{{ .State.Status }}' a
    echo done
"""

ALERT = """
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata: {name: a}
spec: {annotation: "{{ $labels.pod }} on {{inputs.node}}"}
"""

CASES = (
    Case("PT102", HELM, ALERT),
    Case("PT101", "apiVersion: v1\nkind: [\n", "apiVersion: v1\nkind: []\n"),
    Case("PT101", "a: 1\n b: 2\n", '{"a": 1,\t"b": 2}'),
    Case("PT101", "a: !python/object:os.system {}", "a: '!python'"),
    Case("PT101", "[" * 3000, "[" * 30 + "]" * 30),
    Case("PT102", HELM, SCRIPT),
    Case("PT102", 'kind: Job\nmetadata: {name: "{% if x %}a{% endif %}"}', "on: ${{ github.event }}"),
    Case("PT102", "kind: Job\n%{ if x }\nmetadata: {}\n%{ endif }\n", "kind: 100%\n"),
)
