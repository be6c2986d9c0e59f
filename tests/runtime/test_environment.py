"""The runtime where nothing else is installed: no torch, no MMDetection."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import venv
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

from tests.runtime.conftest import write_openvino
from tests.serving.conftest import Client, picture

pytest.importorskip("starlette", reason="pip install 'mmconvnext[serve]'")
# Blocks what the service alone needs, too, and detects.
DETECT = """
import importlib.util, json, sys, time

start = time.perf_counter()
for name in ("PIL", "pycocotools", "starlette"):
    sys.modules[name] = None
from mmconvnext.runtime import Detector

results = {}
for path in sys.argv[2:]:
    found = Detector(path)(sys.argv[1])
    results[path] = [found.coco(), len(found.polygons[0]), found.masks.sum().item()]
names = ("torch", "torchvision", "mmengine", "mmcv", "mmdet", "scipy", "onnx")
there = [name for name in names if name in sys.modules or importlib.util.find_spec(name)]
print(json.dumps([results, there, time.perf_counter() - start]))
"""


def closure(names):
    """The installed distributions that some need, with all that they need."""
    found = {}
    waiting = [*names]
    while waiting:
        name = re.match(r"[\w.-]+", waiting.pop())[0].lower().replace("_", "-")
        name = {"opencv-python-headless": "opencv-python"}.get(name, name)
        if name not in found:
            try:
                found[name] = distribution(name)
            except PackageNotFoundError:  # for another system or Python
                continue
            waiting += [line for line in found[name].requires or () if "extra ==" not in line]
    return found


@pytest.fixture(scope="module")
def sources(repo, tmp_path_factory):
    """What runtime/Dockerfile copies."""
    folder = tmp_path_factory.mktemp("sources")
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(repo / "mmconvnext", folder / "mmconvnext", ignore=ignore)
    (folder / "runtime").mkdir()
    shutil.copy(repo / "runtime" / "pyproject.toml", folder / "runtime")
    return folder


@pytest.fixture(scope="module")
def environment(sources, tmp_path_factory):
    """The `bin` of an environment with mmconvnext-runtime and links to what it requires."""
    text = (sources / "runtime" / "pyproject.toml").read_text("utf-8")
    named = re.findall(r"^(?:dependencies|openvino|onnx|serve) = \[(.*)\]$", text, re.M)
    assert len(named) == 4  # Python 3.10 has no tomllib
    needed = closure(re.findall(r'"(.*?)"', ",".join(named)))
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    code = "import site; print(site.getsitepackages()[0])"
    printed = subprocess.run(
        [folder / "bin" / "python", "-c", code], capture_output=True, text=True
    )
    packages, here = Path(printed.stdout.strip()), Path(sysconfig.get_path("purelib"))
    parts = {file.parts[0] for each in needed.values() for file in each.files or ()}
    for part in parts - {"..", "__pycache__"}:
        (packages / part).symlink_to(here / part)
    pip = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install", "--quiet"]
    pip += ["--no-deps", "--no-index", "--no-build-isolation"]
    environ = {**os.environ, "PYTHONPATH": str(here)}  # of the builder; pip starts without ours
    subprocess.run([*pip, sources / "runtime"], check=True, env=environ)
    return folder / "bin"


def clean():
    return {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}


def test_it_detects_without_torch(environment, model, tmp_path):
    (tmp_path / "a.png").write_bytes(picture())
    models = [model, write_openvino(tmp_path / "tiny.xml")]
    command = [environment / "python", "-c", DETECT, "a.png", *models]
    ended = subprocess.run(command, cwd=tmp_path, env=clean(), capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    results, there, seconds = json.loads(ended.stdout)
    assert there == []
    assert seconds < 30  # on a machine that does other things, too
    first, second = results.values()
    assert first[0][0]["score"] == pytest.approx(second[0][0]["score"])
    assert first[0][0]["segmentation"] == second[0][0]["segmentation"]
    assert [entry["category"] for entry in first[0]] == ["disk", "triangle"]
    assert first[1:] == second[1:] == [1, 10 * 20 + 16 * 14]


def test_it_serves_and_stops_when_it_is_told(environment, model, tmp_path):
    command = [environment / "mmconvnext-runtime", "serve", model, "--port", "0"]
    command += ["--max-batch", "4", "--max-pixels", "10000"]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=tmp_path, env=clean(), **streams) as process:
        try:
            line = process.stdout.readline()
            port = re.fullmatch(r"tiny: http://127\.0\.0\.1:(\d+)/ .*\n", line)[1]
            client = Client(int(port))
            status, content = client("/predict?name=a.png", picture())
            (result,) = content["results"]
            assert (status, result["name"], len(result["outlines"])) == (200, "tiny", 2)
            bad = [b"", b"text", picture(kind="GIF"), picture(kind="JPEG")[:-9], picture(101, 100)]
            answers = [client(data=data) for data in bad]
            assert [code for code, _ in answers] == [415, 415, 415, 422, 413]
            assert all([*content] == ["error"] for _, content in answers)
            assert client("/ready") == client("/health") == (200, {"status": "ok"})
            assert 'mmconvnext_requests_total{status="415"} 3.0' in client("/metrics")[1]
            assert client("/")[0] == 200
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == -signal.SIGTERM
        finally:
            process.kill()
        assert process.stderr.read() == ""


def test_the_container_file_runs_the_command_as_nobody_in_particular(repo, sources):
    text = (repo / "runtime" / "Dockerfile").read_text("utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and line[0] != "#"]
    steps = [line.split(maxsplit=1) for line in lines]
    copied = [rest.split()[0] for word, rest in steps if word == "COPY" and "--from" not in rest]
    assert copied == ["mmconvnext", "runtime/pyproject.toml"]  # as `sources`
    last = dict(steps)
    assert int(last["USER"]) > 0
    assert "/health" in last["HEALTHCHECK"]
    assert "extra" not in last["RUN"]
    *_, script = json.loads(last["CMD"])
    assert script == 'exec mmconvnext-runtime serve "$MODEL" --host 0.0.0.0 --port 8000'
