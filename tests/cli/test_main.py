"""The command line: what is answered at once, and which copy of the package runs."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from mmconvnext import __version__, cli

HELP = """
import json, sys
from mmconvnext.cli import main
try:
    sys.exit(main(json.loads(sys.argv[1])))
except SystemExit as exit:
    print(exit.code, sorted({"torch", "mmengine", "mmdet", "numpy"} & {*sys.modules}))
"""


@pytest.mark.parametrize("command", [[], *([name] for name in cli.COMMANDS), ["weights", "list"]])
def test_help_imports_nothing_heavy(run_python, command):
    *lines, last = run_python(HELP, json.dumps([*command, "--help"])).splitlines()
    assert last == "0 []"
    assert lines[0].startswith(" ".join(["usage: mmconvnext", *command, ""]))


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "no_such_config"],
        ["train", "mask_rcnn_convnext_shapes", "--data-root", "no_such"],
        ["check-data", "mask_rcnn_convnext_shapes", "--dataset", "no_such"],
        ["train", "mask_rcnn_convnext_shapes", "--resume", "no_such.pth"],
        ["test", "mask_rcnn_convnext_shapes", "no_such.pth"],
    ],
)
def test_wrong_paths_are_refused_before_anything_heavy_is_imported(run_python, arguments):
    assert run_python(HELP, json.dumps(arguments)) == "1 []\n"


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("--help", [rf"^    {name}\s" for name in cli.COMMANDS]),
        ("--version", [rf"\Ammconvnext {re.escape(__version__)}\n\Z"]),
    ],
)
def test_the_help_lists_the_commands_and_the_version_is_told(capsys, option, says):
    with pytest.raises(SystemExit):
        cli.main([option])
    output = capsys.readouterr().out
    assert all(re.search(each, output, re.M) for each in says)


@pytest.mark.parametrize("arguments", [[], ["trian"], ["train"], ["weights", "look"]])
def test_unknown_and_incomplete_commands(capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith("usage: mmconvnext ")
    assert "choose from" in err or "required" in err


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_each_tool_is_a_command(repo, command):
    tool = "get_flops" if command == "flops" else command.replace("-", "_")
    start = [sys.executable, repo / "tools" / f"{tool}.py", "--help"]
    printed = subprocess.check_output(start, cwd="/", text=True)
    assert printed.startswith(f"usage: mmconvnext {command} ")


@pytest.fixture(scope="module")
def copy(repo, tmp_path_factory):
    """A second checkout, which says its name."""
    folder = tmp_path_factory.mktemp("second")
    shutil.copytree(repo / "tools", folder / "tools")
    shutil.copytree(
        repo / "mmconvnext", folder / "mmconvnext", ignore=shutil.ignore_patterns("__pycache__")
    )
    path = folder / "mmconvnext" / "cli" / "train.py"
    path.write_text(f"{path.read_text()}\nprint('the train of {folder.name}')\n")
    return folder


TRAIN = ("{}/tools/train.py", "{}/mmconvnext train", "-m torch.distributed.run {}/tools/train.py")


@pytest.mark.parametrize("command", TRAIN)
def test_a_checkout_runs_its_own_package(repo, copy, command):
    # two copies and one environment, with the other one on the path and in the current folder
    start = [sys.executable, *command.format(copy).split(), "--help"]
    environ = {**os.environ, "PYTHONPATH": str(repo)}
    printed = subprocess.check_output(start, cwd=repo, env=environ, text=True)
    assert printed.startswith(f"the train of {copy.name}\n")
