"""The manifests that the documents show and that tests hold: one of each kind, of one short run file."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

from launches import config_of, launch_of

from packtrain.kube.launch import Launch
from packtrain.kube.manifests import render, to_yaml
from packtrain.kube.preflight import render_preflight
from packtrain.kube.serve import Serving, render_serve
from packtrain.plan.machines import machine

GOLDEN = Path(__file__).parent / "kube" / "golden"
#: In place of all the knobs of a resolved run file, which are not what these files are about.
RUN_YAML = """\
name: llama3-8b-dolly
model: {source: meta-llama/Meta-Llama-3-8B-Instruct}
data: {train: databricks/databricks-dolly-15k}
output: {uri: gs://my-bucket/final_model}
"""


@functools.cache
def goldens() -> dict[str, str]:
    """Name of a file -> its YAML."""

    def launch(**cluster: Any) -> Launch:
        return replace(launch_of(**cluster), run_yaml=RUN_YAML)

    serving = Serving(
        config=config_of(), image=launch().image, adapter_uri="gs://my-bucket/final_model",
        machine=machine("g2-standard-12"),
    )  # fmt: skip
    queued = launch(capacity="queued", queue="team-a", max_cost="200 USD")
    manifests = {
        "one-node": render(launch()),
        "one-node-small": render(launch(machine="g2-standard-12", capacity="on-demand")),
        "one-node-queued": render(queued),
        "two-nodes": render(launch(nodes=2, max_cost="500 USD")),
        "two-nodes-tcpx": render(launch(nodes=2, machine="a3-highgpu-8g")),
        "two-nodes-rdma": render(launch(nodes=2, machine="a3-ultragpu-8g")),
        "preflight": render_preflight(launch())[1:],
        "serve": render_serve(serving),
    }
    return {name: to_yaml(each) for name, each in manifests.items()}
