"""The files for clusters: they parse, and so do the commands in them."""

import re
import shlex
from pathlib import Path

import pytest
import yaml
from torch.distributed.run import get_args_parser

from mmconvnext.cli import build_parser
from mmconvnext.compat.config_names import config_path

FOLDER = Path(__file__).parents[1] / "docs" / "cluster"
VALUES = {  # of variables
    "$nodes": "2",
    "$host:29400": "a:29400",
    "$SKYPILOT_NUM_NODES": "2",
    "$SKYPILOT_NUM_GPUS_PER_NODE": "8",
    "$SKYPILOT_NODE_RANK": "0",
    '$(echo "$SKYPILOT_NODE_IPS" | head -n1)': "a",
}


def command(name: str) -> list[str]:
    """The words of a file's torchrun, with values for its variables."""
    text = (FOLDER / name).read_text("utf-8")
    if name == "pytorchjob.yaml":
        (spec,) = yaml.safe_load(text)["spec"]["pytorchReplicaSpecs"].values()
        return spec["template"]["spec"]["containers"][0]["command"]
    if name.endswith(".yaml"):
        text = yaml.safe_load(text)["run"]
    for variable, value in VALUES.items():
        text = text.replace(variable, value)
    (line,) = re.findall(r"^torchrun .*", text.replace("\\\n", " "), re.M)
    return shlex.split(line)


@pytest.mark.parametrize("name", ["torchrun.sh", "pytorchjob.yaml", "skypilot.yaml"])
def test_commands_are_those_of_torchrun_and_ours(name, tmp_path):
    torchrun, *words = command(name)
    assert torchrun == "torchrun"
    launched = get_args_parser().parse_args(words)
    assert launched.module
    assert launched.training_script == "mmconvnext"
    assert "$" not in " ".join(words)
    ours = [
        re.sub(r"/(data|shared)/coco$", str(tmp_path), w) for w in launched.training_script_args
    ]
    args = build_parser().parse_args(ours)
    assert config_path(args.config)
    assert args.launcher == "pytorch"
    assert args.resume == "auto", "a restart goes on"
    assert args.shard


def test_the_job_of_kubernetes_is_whole():
    job = yaml.safe_load((FOLDER / "pytorchjob.yaml").read_text("utf-8"))
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v1", "PyTorchJob")
    (worker,) = job["spec"]["pytorchReplicaSpecs"].values()
    pod = worker["template"]["spec"]
    (container,) = pod["containers"]
    assert str(container["resources"]["limits"]["nvidia.com/gpu"]) == job["spec"]["nprocPerNode"]
    policy = job["spec"]["elasticPolicy"]
    assert policy["minReplicas"] <= worker["replicas"] <= policy["maxReplicas"]
    mounted = {volume["name"] for volume in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_the_container_file_names_what_there_is():
    lines = (FOLDER / "Dockerfile").read_text("utf-8").replace("\\\n", " ").splitlines()
    steps = [line.split(maxsplit=1) for line in lines if line.strip() and line[0] != "#"]
    known = {"FROM", "RUN", "WORKDIR", "COPY", "ENTRYPOINT", "CMD"}
    assert {word for word, _ in steps} <= known
    assert steps[0][0] == "FROM"
    root = FOLDER.parents[1]
    for word, rest in steps:
        if word == "COPY":
            assert all((root / source).exists() for source in rest.split()[:-1])
