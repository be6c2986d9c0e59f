"""`mmconvnext serve`: from a checkpoint to answers, and how it stops."""

import argparse
import json
import re
import signal
import socket
import subprocess
import sys
import threading

import pytest

from mmconvnext.cli import main
from mmconvnext.cli.serve import load
from mmconvnext.inference.detector import Detector
from tests.inference.conftest import CONFIG, checkpoint, shapes  # noqa: F401 (fixtures)
from tests.runtime.conftest import write_onnx
from tests.serving.conftest import Client, picture, serve

app = pytest.importorskip("mmconvnext.serving.app", reason="pip install 'mmconvnext[serve]'")


def test_the_json_is_what_the_detector_finds(checkpoint, shapes):  # noqa: F811
    args = argparse.Namespace(cfg_options=None, allow_imports=False, max_batch=1)
    served = load(args, CONFIG, str(checkpoint))
    detector = Detector(CONFIG, checkpoint)
    with serve(app.create_app([served])) as client:
        for path in sorted((shapes / "val").iterdir())[:2]:
            status, content = client(f"/predict?name={path.name}", path.read_bytes())
            found = json.loads(json.dumps(detector(str(path)).coco()))
            assert status == 200
            assert len(found) > 10
            (result,) = content["results"]
            assert result["coco"]["annotations"] == found
            assert len(result["outlines"]) == len(found)
    assert served.name == "detector"


def test_an_exported_file_is_served_without_torch(run_python, tmp_path):
    code = """
import argparse, json, sys
from mmconvnext.cli.serve import load

args = argparse.Namespace(cfg_options=None, allow_imports=False, max_batch=2)
first, second = load(args, sys.argv[1], None), load(args, "any.py", sys.argv[1])
assert first.name == second.name == "tiny"
found = first.find([sys.argv[2]] * 3)
print(json.dumps([len(found), found[0] == second.predict(sys.argv[2]), "torch" in sys.modules]))
"""
    pytest.importorskip("onnxruntime", reason="pip install 'mmconvnext[runtime]'")
    (tmp_path / "a.png").write_bytes(picture())
    printed = run_python(code, write_onnx(tmp_path / "tiny.onnx"), tmp_path / "a.png")
    assert json.loads(printed) == [3, True, False]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--port", "{taken}"], "port {taken}: "),
        (["--port", "70000"], "--port 70000: "),
        (["--host", "no.such.host.invalid"], "--host no.such.host.invalid"),
        (["--max-clients", "0"], "--max-clients 0: "),
        ([], "a config is given with a checkpoint"),
    ],
)
def test_mistakes(capsys, arguments, says):
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        arguments = [argument.format(taken=taken) for argument in arguments]
        assert main(["serve", CONFIG, "--port", "0", *arguments]) == 1
    assert says.format(taken=taken) in capsys.readouterr().err


def test_without_the_libraries_it_says_how_to_get_them(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["serve", CONFIG]) == 1
    assert "pip install 'mmconvnext[serve]'" in capsys.readouterr().err


# The command with a detector that takes half a second, and no torch.
SLOW = """
import sys, time
from mmconvnext.cli import main, serve
from tests.serving.conftest import objects, standing_in

def predict(path):
    print("begun", flush=True)
    time.sleep(0.5)
    return objects(path)

serve.load = lambda args, config, checkpoint: standing_in(predict, checkpoint or config)
sys.exit(main(["serve", *sys.argv[1:]]))
"""


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, -signal.SIGTERM)]
)
def test_a_signal_stops_it_when_who_is_there_is_answered(tmp_path, repo, number, code):
    command = [sys.executable, "-c", SLOW, CONFIG, "a.pth", "--compare", tmp_path, "--port", "0"]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": repo}
    with subprocess.Popen([*map(str, command)], **streams) as process:
        try:
            line = process.stdout.readline()
            names = rf"a\.pth and {re.escape(str(tmp_path))}"
            port = re.fullmatch(rf"{names}: http://127\.0\.0\.1:(\d+)/ .*\n", line)[1]
            client, answers = Client(int(port)), []
            asked = threading.Thread(target=lambda: answers.append(client(data=picture())))
            asked.start()
            assert process.stdout.readline() == "begun\n"
            process.send_signal(number)
            asked.join()
            assert process.wait(60) == code
        finally:
            process.kill()
        assert process.stderr.read() == ""
    ((status, content),) = answers
    assert (status, len(content["results"])) == (200, 2)
