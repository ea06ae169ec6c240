"""Cases of the rules on failure, and on shell scripts (PT4, PT5)."""

from __future__ import annotations

from typing import Any

from doctor_cases.kit import (
    DROP,
    MAIN,
    NODE_JOB,
    NODE_MAIN,
    POD,
    Case,
    deployment,
    edited,
    job,
    jobset,
    script,
)

RULES = ("spec", "podFailurePolicy", "rules")
NODE_RULES = (*NODE_JOB, "podFailurePolicy", "rules")
POLICY = ("spec", "failurePolicy")
DISRUPTED = {"onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
IGNORE: dict[str, Any] = {"action": "Ignore", **DISRUPTED}
FAIL: dict[str, Any] = {"action": "FailJob", **DISRUPTED}
FAIL_JOBSET: dict[str, Any] = {"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
RESTART: dict[str, Any] = {
    "action": "RestartJobSetAndIgnoreMaxRestarts",
    "onJobFailureReasons": ["PodFailurePolicy"],
    "onJobFailureMessagePatterns": ["has condition DisruptionTarget"],
}
TORCHRUN = ((*MAIN, "command"), ["torchrun", "--nproc-per-node=8", "train.py"])
ON_SIGTERM = """
cleanup() {
  if [ -n "$pid" ]; then kill -TERM "$pid"; fi
  exit %s
}
trap cleanup SIGTERM
python train.py & pid=$!
wait "$pid"
"""


def codes(*values: int, operator: str = "In", **more: Any) -> dict[str, Any]:
    return {"action": "FailJob", "onExitCodes": {"operator": operator, "values": list(values), **more}}


def config_map(text: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"launch.sh": text}}


INDEXED = ((*MAIN, "command"), ["bash", "-c", "exec torchrun --node-rank=$JOB_COMPLETION_INDEX a.py"])
PARALLEL = (("spec", "parallelism"), 2)
NNODES = ((*NODE_MAIN, "command"), ["supervise", "torchrun", "--nnodes=2"])

FIRST = "llama3-8b-dolly-node-0-0"
TEMPLATE = jobset()["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
NAMES = [each["name"] for each in TEMPLATE["spec"]["containers"][0]["env"]]
MASTER = (*NODE_MAIN, "env", NAMES.index("PACKTRAIN_MASTER_ADDR"), "value")

CASES = (
    Case("PT401", job(((*POD, "restartPolicy"), "OnFailure")), job(((*POD, "restartPolicy"), "Never"))),
    Case(
        "PT401",
        job(((*POD, "restartPolicy"), DROP)),
        job(((*POD, "restartPolicy"), "OnFailure"), (("spec", "podFailurePolicy"), DROP)),
    ),
    Case("PT402", job(TORCHRUN), job(((*MAIN, "command"), ["python", "-m", "torch.utils.collect_env"]))),
    Case(
        "PT402",
        job(TORCHRUN, (RULES, [IGNORE, codes(42, operator="NotIn")])),
        job(TORCHRUN, (RULES, [IGNORE, codes(1)])),
    ),
    Case(
        "PT402",
        script("set -e\nexport A=1\nexec python -m torch.distributed.run train.py"),
        script("set -e\nexport A=1\nexec python train.py"),
    ),
    Case(
        "PT403",
        job((RULES, [IGNORE, codes(78, containerName="main")])),
        job((RULES, [IGNORE, codes(78, containerName="trainer")])),
    ),
    Case(
        "PT404",
        job((RULES, [codes(0, 42, operator="NotIn"), IGNORE])),
        job((RULES, [IGNORE, codes(0, 42, operator="NotIn")])),
    ),
    Case("PT404", job((RULES, [codes(78, 143)])), job((RULES, [codes(78, 79)]))),
    Case("PT405", job((RULES, [codes(78)])), job((RULES, [codes(78)]), capacity="on-demand")),
    Case("PT406", job((RULES, [FAIL, codes(78)])), jobset((NODE_RULES, [FAIL, codes(78)]))),
    Case(
        "PT407",
        jobset(((*POLICY, "rules"), [FAIL_JOBSET])),
        jobset(((*POLICY, "rules"), [RESTART, FAIL_JOBSET])),
    ),
    Case(
        "PT407",
        jobset(((*POLICY, "rules"), [FAIL_JOBSET, RESTART])),
        jobset(
            (
                (*POLICY, "rules"),
                [FAIL_JOBSET | {"onJobFailureMessagePatterns": ["failed with exit code"]}, RESTART],
            )
        ),
    ),
    Case(
        "PT407",
        jobset(((*POLICY, "rules"), [{"action": "FailJobSet"}])),
        jobset(((*POLICY, "rules"), [FAIL_JOBSET | {"targetReplicatedJobs": ["other"]}])),
    ),
    Case(
        "PT407",
        jobset(((*POLICY, "rules"), [FAIL_JOBSET])),
        jobset(((*POLICY, "rules"), [FAIL_JOBSET]), (NODE_RULES, [codes(78)])),
    ),
    Case("PT408", jobset((POLICY, {"maxRestarts": 0})), jobset((POLICY, {"maxRestarts": 20}))),
    Case("PT408", jobset((POLICY, DROP)), jobset((POLICY, DROP), capacity="on-demand")),
    Case(
        "PT409",
        jobset(((*POLICY, "restartStrategy"), "Recreate")),
        jobset(((*POLICY, "restartStrategy"), "BlockingRecreate")),
    ),
    Case(
        "PT409",
        jobset(((*POLICY, "restartStrategy"), DROP)),
        jobset(((*POLICY, "restartStrategy"), DROP), ((*NODE_JOB, "parallelism"), 1)),
    ),
    Case("PT410", jobset(((*NODE_JOB, "backoffLimit"), DROP)), jobset(((*NODE_JOB, "backoffLimit"), 0))),
    Case(
        "PT411",
        jobset((("spec", "activeDeadlineSeconds"), 3600)),
        jobset(((*NODE_JOB, "activeDeadlineSeconds"), 3600)),
    ),
    Case("PT412", job(PARALLEL, INDEXED), job(PARALLEL, INDEXED, (("spec", "completionMode"), "Indexed"))),
    Case(
        "PT413",
        jobset(NNODES, ((*NODE_JOB, "parallelism"), 1)),
        jobset(NNODES, ((*NODE_JOB, "parallelism"), 2)),
    ),
    Case("PT414", jobset((MASTER, "trainer-node-0-0.trainer")), jobset((MASTER, "10.0.0.7"))),
    Case(
        "PT414", jobset((MASTER, f"{FIRST}.other")), jobset((MASTER, f"{FIRST}.llama3-8b-dolly.default.svc"))
    ),
    Case(
        "PT414",
        jobset((MASTER, "llama3-8b-dolly-node-0-2.llama3-8b-dolly")),
        jobset((MASTER, f"{FIRST}.net"), (("spec", "network", "subdomain"), "net")),
    ),
    Case("PT501", script(ON_SIGTERM % 0), script(ON_SIGTERM % 143)),
    Case(
        "PT501", script("trap 'kill $pid; exit 0' TERM INT\nrun"), script("trap 'kill $pid; exit 0' INT\nrun")
    ),
    Case("PT501", script('trap "exit 0" 15\nrun'), script('trap "exit 0" 150\nrun')),
    Case(
        "PT501",
        job(((*MAIN, "command"), ["python", "-c", "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))"])),
        job(((*MAIN, "command"), ["python", "-c", "signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))"])),
    ),
    Case(
        "PT501",
        script("trap 'exit 0' SIGTERM\nrun"),
        edited(
            job(),
            (
                (*POD, "initContainers"),
                [
                    {
                        "name": "s",
                        "image": "s:1",
                        "restartPolicy": "Always",
                        "command": ["sh", "-c", "trap 'exit 0' TERM\nrun"],
                    }
                ],
            ),
        ),
    ),
    Case("PT502", config_map(ON_SIGTERM % 0), config_map(ON_SIGTERM % '"$code"')),
    Case(
        "PT503",
        script("python train.py 2>&1 | tee log"),
        script("set -o pipefail\npython train.py 2>&1 | tee log"),
    ),
    Case("PT503", script("python train.py || true"), script("python train.py || exit 1")),
    Case(
        "PT503",
        script("python train.py || echo 'it failed'"),
        script("rm -f a || true\nexec python train.py 'a | b'"),
    ),
    Case("PT504", script("pip list\npython train.py"), script("pip list\nexec python train.py")),
    Case("PT504", script("cd /app && python train.py"), script("python train.py")),
    Case(
        "PT504",
        script("pip list\npython train.py"),
        deployment({"containers": [{"name": "a", "image": "a:1", "command": ["sh", "-c", "a\nb"]}]}),
    ),
    Case("PT505", script("service ssh restart;\nsleep infinity;"), script("sleep 30\nexec python train.py")),
    Case(
        "PT505",
        job(((*MAIN, "command"), ["tail", "-f", "/dev/null"])),
        job(((*MAIN, "command"), ["tail", "-f", "/log"])),
    ),
)
