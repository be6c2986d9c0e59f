import json
import os
import subprocess
import sys
from importlib import metadata

import numpy as np
import pytest
import torch
from mmengine.config import Config

import mmconvnext
from mmconvnext.engine import provenance

IDENTITY = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]


@pytest.fixture
def module_in(monkeypatch, tmp_path):
    """Let the module lie in a package in a folder of its own; returns the folder."""
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "mmconvnext/engine/provenance.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    return tmp_path


def git(folder, *arguments) -> str:
    command = ["git", *IDENTITY, "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_a_run_names_its_config_command_versions_and_hardware(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["tools/train.py", "c.py", "--amp"])
    monkeypatch.setattr(provenance, "git_revision", lambda: "0123456789ab")
    monkeypatch.setattr(provenance, "PACKAGES", ("numpy", "mmdet", "no-such-package"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", "GPU {}".format)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    cfg = Config({}, filename=__file__)
    path = provenance.write_run_info(cfg, str(tmp_path / "work" / "time"))
    assert path == tmp_path / "work" / "time" / "run.json"
    info = json.loads(path.read_text())
    assert info == provenance.run_info(cfg)
    hardware = info.pop("hardware")
    assert info == {
        "config": __file__,
        "command": ["tools/train.py", "c.py", "--amp"],
        "mmconvnext": mmconvnext.__version__,
        "git_revision": "0123456789ab",
        "python": ".".join(map(str, sys.version_info[:3])),
        "packages": {"numpy": np.__version__, "mmdet": metadata.version("mmdet")},
    }
    with open("/proc/meminfo", encoding="utf-8") as file:
        kib = next(int(line.split()[1]) for line in file if line.startswith("MemTotal:"))
    assert hardware.pop("memory_gib") == pytest.approx(kib / 2**20, abs=0.1)
    assert hardware.pop("processor")
    assert hardware == {"cores": os.cpu_count(), "gpus": ["GPU 0", "GPU 1"], "threads": 7}


@pytest.mark.parametrize(
    ("cpuinfo", "name"),
    [
        ("processor: 0\nmodel name\t: CPU @ 2:1\nprocessor: 1\nmodel name: b\n", "CPU @ 2:1"),
        ("processor: 0\n", "a_machine"),
        (None, "a_processor"),
    ],
)
def test_the_processor_has_a_name_on_every_machine(monkeypatch, tmp_path, cpuinfo, name):
    if cpuinfo is not None:
        (tmp_path / "cpuinfo").write_text(cpuinfo)
    monkeypatch.setattr(provenance, "Path", lambda _: tmp_path / "cpuinfo")
    monkeypatch.setattr(provenance.platform, "machine", lambda: "a_machine")
    monkeypatch.setattr(provenance.platform, "processor", lambda: "a_processor")
    assert provenance.processor() == name


def test_the_revision_is_the_commit_and_says_what_was_changed_since(monkeypatch, module_in):
    assert provenance.git_revision() == "unknown (not a git checkout)"
    git(module_in, "init", "--quiet")
    (module_in / "provenance.py").write_text("a = 1\n")
    git(module_in, "add", ".")
    git(module_in, "commit", "--quiet", "--message", "a")
    commit = git(module_in, "rev-parse", "HEAD")[:12]
    assert provenance.git_revision() == commit
    (module_in / "provenance.py").write_text("a = 2\n")
    assert provenance.git_revision() == f"{commit}-dirty"
    # the repository around the package is not its own
    inner = module_in / "site-packages/mmconvnext/engine/provenance.py"
    inner.parent.mkdir(parents=True)
    monkeypatch.setattr(provenance, "__file__", str(inner))
    assert provenance.git_revision() == "unknown (not a git checkout)"
    monkeypatch.setenv("PATH", str(module_in))
    assert provenance.git_revision() == "unknown (git is not installed)"


def test_the_result_says_what_it_was_measured_with(tmp_path):
    cfg = Config({"work_dir": str(tmp_path / "work")}, filename=None)
    metrics = {"coco/bbox_mAP": 0.5123, "coco/segm/cat_precision": float("nan")}
    path = provenance.write_result(metrics, cfg, "epoch_3.pth", str(tmp_path / "work" / "time"))
    assert path == tmp_path / "work" / "result.json"
    result = json.loads(path.read_text())
    assert result["metrics"] == {"bbox_mAP": 0.5123}
    assert result["classwise"] == {"segm": {"cat": -1.0}}
    assert result["checkpoint"] == "epoch_3.pth"
    several = {f"{name}/{key}": value for name in "ab" for key, value in metrics.items()}
    provenance.write_result(several, cfg, "epoch_3.pth", str(tmp_path / "work" / "time"))
    sets = json.loads(path.read_text())["data_sets"]
    assert sets["a"] == sets["b"] == {k: result[k] for k in ("metrics", "classwise")}
    assert "0-1" in result["unit"]
    assert {"git_revision", "packages", "hardware", "config"} <= result["run"].keys()
    assert (tmp_path / "work" / "time" / "result.json").read_text() == path.read_text()
