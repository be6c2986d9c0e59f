"""The set-up tool, the Makefile's handling of PYTHON, and the metadata in setup.py.

Nothing here installs anything or needs the network: the command lines run in made-up situations
that end before, and pip is a script where only its words matter.
"""

import ast
import importlib.metadata
import importlib.util
import io
import json
import os
import runpy
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import setuptools
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "tools" / "setup_env.py"


def load_script():
    spec = importlib.util.spec_from_file_location("setup_env", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


setup_env = load_script()
PIN_FILES = ["requirements.txt", *(f"requirements-{peer}.txt" for peer in setup_env.PEERS)]


def run_script(*arguments, **environ):
    """Runs the tool as the Makefile does, with additional environment variables."""
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        env=dict(os.environ, **environ),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def assert_one_sentence(result, *parts):
    """The command failed, with one line on stderr that has all these parts."""
    assert result.returncode not in (0, None)
    assert "Traceback" not in result.stdout + result.stderr
    lines = [line for line in result.stderr.splitlines() if not line.startswith("make")]
    assert len(lines) == 1, result.stderr
    assert lines[0].endswith(".")
    for part in parts:
        assert part in lines[0]


def make_finished(venv, **changes):
    """Makes what looks like a finished environment, and returns its stamp."""
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to(sys.executable)
    (venv / "setup.lock").touch()
    this_python = "{}.{}".format(*sys.version_info[:2])
    stamp = {**setup_env.wanted_stamp(this_python, None), **changes}
    setup_env.write_stamp(str(venv), stamp)
    return stamp


class Recorder:
    """Stands in for `Progress`."""

    def __init__(self):
        self.said = []

    def say(self, text):
        self.said.append(text)


# Python, its modules, the disk


@pytest.mark.parametrize("version", [(3, 10, 0), (3, 11, 7), (3, 12, 1), (3, 13, 0)])
def test_supported_pythons_pass(version):
    setup_env.check_python(version, "python3")


@pytest.mark.parametrize("version", [(2, 7, 18), (3, 6, 15), (3, 9, 18)])
def test_old_python_is_named(version):
    with pytest.raises(setup_env.SetupError) as error:
        setup_env.check_python(version, "/opt/python3")
    shown = ".".join(map(str, version))
    assert f"/opt/python3 of version {shown}" in str(error.value)
    assert "at least 3.10" in str(error.value)
    assert "PYTHON=" in str(error.value)


@pytest.mark.parametrize("version", [(3, 14, 0), (3, 15, 1), (4, 0, 0)])
def test_new_python_says_what_is_missing_there(version):
    with pytest.raises(setup_env.SetupError, match=r"pkgutil\.find_loader.*PYTHON="):
        setup_env.check_python(version, "python3")


def test_supported_pythons_are_those_of_setup_py():
    oldest = SpecifierSet(f">={'.'.join(map(str, setup_env.OLDEST))}")
    before = SpecifierSet(f"<{'.'.join(map(str, setup_env.TOO_NEW))}")
    assert SpecifierSet(read_setup()["python_requires"]) == oldest & before


def test_script_is_parsed_by_old_pythons():
    modern = (ast.JoinedStr, ast.AnnAssign, ast.NamedExpr, ast.Nonlocal, ast.Match)
    for node in ast.walk(ast.parse(SCRIPT.read_text("ascii"))):
        where = f"line {getattr(node, 'lineno', '?')}"
        assert not isinstance(node, modern), where
        assert not isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.YieldFrom), where
        if isinstance(node, ast.List | ast.Tuple | ast.Set):
            assert not any(isinstance(item, ast.Starred) for item in node.elts), where
        if isinstance(node, ast.arg):
            assert node.annotation is None, where
        if isinstance(node, ast.FunctionDef):
            assert node.returns is None, where
            assert not node.args.kwonlyargs, where
        if isinstance(node, ast.Raise):
            assert node.cause is None, where


@pytest.mark.parametrize("module", ["venv", "ensurepip"])
def test_missing_venv_module_names_the_package_to_install(tmp_path, module):
    (tmp_path / f"{module}.py").write_text("raise ImportError('split off by Debian')")
    result = run_script("--venv", tmp_path / "env", PYTHONPATH=str(tmp_path))
    package = "apt install python{}.{}-venv".format(*sys.version_info[:2])
    assert_one_sentence(result, f"no module {module}", package, sys.executable)
    assert not (tmp_path / "env").exists()


def test_too_little_disk_names_what_is_needed_and_what_is_free(tmp_path):
    result = run_script("--venv", tmp_path / "env", SETUP_NEED_GB="1000000")
    assert_one_sentence(result, "Too little disk at", "GB are free", "VENV=", "TORCH_INDEX=")
    assert "0.0 GB and" in result.stderr or "3.0 GB and" in result.stderr
    assert not (tmp_path / "env").exists()


@pytest.mark.parametrize(("free", "cpu_only", "enough"), [(9, False, False), (9, True, True)])
def test_cpu_only_wheels_need_less_disk(tmp_path, monkeypatch, free, cpu_only, enough):
    usage = shutil.disk_usage(tmp_path)._replace(free=free * 1e9)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    monkeypatch.setattr(setup_env.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.delenv("SETUP_NEED_GB", raising=False)
    if enough:
        setup_env.check_disk(str(tmp_path / "not" / "yet"), cpu_only)
    else:
        # 7 GB for the environment and 3 GB for the downloads, on one disk.
        with pytest.raises(setup_env.SetupError, match=r"needs 10\.0 GB and 9\.0 GB are free"):
            setup_env.check_disk(str(tmp_path / "not" / "yet"), cpu_only)


# What is there already


def test_finished_environment_is_taken_at_once(tmp_path):
    venv = tmp_path / "env"
    make_finished(venv)
    start = time.perf_counter()
    result = run_script("--venv", venv, "--python-chosen")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert time.perf_counter() - start < 3


@pytest.mark.parametrize(
    ("had", "asked", "task"),
    [
        ({}, {}, "nothing"),
        ({"pins": "other"}, {}, "update"),
        ({"project": "/elsewhere"}, {}, "update"),
        ({"python": "3.9"}, {}, "nothing"),  # no Python was named: it keeps its own
        ({"python": "3.9"}, {"python": "3.12"}, "rebuild"),
        ({"torch_index": "http://cpu"}, {}, "nothing"),
        ({"torch_index": "http://cpu"}, {"torch_index": "http://cpu"}, "nothing"),
        ({}, {"torch_index": "http://cpu"}, "rebuild"),  # CUDA's torch has the same version
        ({"pins": "other", "torch_index": "http://cpu"}, {}, "update"),
    ],
)
def test_plan_for_finished_environments(tmp_path, had, asked, task):
    venv = tmp_path / "env"
    make_finished(venv, **had)
    wanted = {**setup_env.wanted_stamp(None, None), **asked}
    assert setup_env.plan(str(venv), wanted) == task


def test_plan_creates_what_is_absent_or_empty(tmp_path):
    wanted = setup_env.wanted_stamp(None, None)
    assert setup_env.plan(str(tmp_path / "env"), wanted) == "create"
    assert setup_env.plan(str(tmp_path), wanted) == "create"


@pytest.mark.parametrize("damage", ["no stamp", "half a stamp", "no interpreter"])
def test_plan_rebuilds_after_an_interruption(tmp_path, damage):
    venv = tmp_path / "env"
    make_finished(venv)
    if damage == "no stamp":
        (venv / "setup.json").unlink()
    elif damage == "half a stamp":
        (venv / "setup.json").write_text('{"pins": ')
    else:
        (venv / "bin" / "python").unlink()
    assert setup_env.plan(str(venv), setup_env.wanted_stamp(None, None)) == "rebuild"


def test_folder_of_somebody_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("the only copy")
    result = run_script("--venv", tmp_path)
    assert_one_sentence(result, str(tmp_path), "not made by this set-up", "VENV=")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_file_in_place_of_the_environment(tmp_path):
    (tmp_path / "env").write_text("")
    assert_one_sentence(run_script("--venv", tmp_path / "env"), "is not a folder", "VENV=")


@pytest.mark.parametrize("changed", PIN_FILES)
def test_pins_are_part_of_the_stamp(tmp_path, monkeypatch, changed):
    before = setup_env.wanted_stamp(None, None)
    for file in PIN_FILES:
        shutil.copy(ROOT / file, tmp_path)
    (tmp_path / changed).write_text("torch==0\n")
    monkeypatch.setattr(setup_env, "REQUIREMENTS", str(tmp_path / "requirements.txt"))
    monkeypatch.setattr(
        setup_env, "peer_requirements", lambda peer: str(tmp_path / f"requirements-{peer}.txt")
    )
    after = setup_env.wanted_stamp(None, None)
    assert {key for key in before if before[key] != after[key]} == {"pins"}


def test_clear_keeps_the_lock_and_what_links_lead_to(tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "kept").touch()
    venv = tmp_path / "env"
    make_finished(venv)
    (venv / "lib64").symlink_to(tmp_path / "outside")
    setup_env.clear(str(venv))
    assert [path.name for path in venv.iterdir()] == ["setup.lock"]
    assert (tmp_path / "outside" / "kept").exists()


def test_second_set_up_waits_for_the_first(tmp_path):
    venv = tmp_path / "env"
    first = setup_env.lock(str(venv))
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import setup_env; setup_env.lock(sys.argv[2])"
    )
    command = [sys.executable, "-c", code, str(SCRIPT.parent), str(venv)]
    environ = dict(os.environ, PYTHONPATH=str(SCRIPT.parent))
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as second:
        assert "Waiting for another set-up" in second.stdout.readline()
        assert second.poll() is None
        first.close()
        assert second.wait(timeout=30) == 0


# The work itself, with steps that only say that they were called


@pytest.fixture
def fake_work(monkeypatch):
    """Replaces what takes long; gives the list of what was called instead."""
    calls = []

    def create(venv):
        calls.append("create")
        (Path(venv) / "bin").mkdir()
        (Path(venv) / "bin" / "python").symlink_to(sys.executable)
        (Path(venv) / "pyvenv.cfg").touch()

    def run_shown(command, environ, log, progress):
        calls.append(command[3:])
        return 0, []

    monkeypatch.setattr(setup_env, "create", create)
    monkeypatch.setattr(setup_env, "run_shown", run_shown)
    monkeypatch.setattr(setup_env, "prove", lambda venv: calls.append("prove"))
    monkeypatch.setenv("SETUP_NEED_GB", "0")
    monkeypatch.setattr(setup_env, "FULL_GB", (0, 0))
    monkeypatch.setattr(setup_env, "CPU_GB", (0, 0))
    monkeypatch.setattr(subprocess, "check_output", lambda *_, **__: "")
    return calls


def test_set_up_installs_wheels_and_the_package_then_does_nothing(tmp_path, fake_work):
    venv = str(tmp_path / "env")
    assert setup_env.main(["--venv", venv]) == 0
    created, pins, package, *peers, proved = fake_work
    assert (created, proved) == ("create", "prove")
    assert pins[:2] == ["install", "--only-binary=:all:"]
    assert pins[-2:] == ["-r", setup_env.REQUIREMENTS]
    assert {"--no-deps", "--no-build-isolation", "--editable", str(ROOT)} <= set(package)
    assert len(peers) == 2
    for name, peer in zip(["mmpretrain", "transformers"], peers, strict=True):
        assert {"--only-binary=:all:", "--no-deps"} <= set(peer)
        assert peer[peer.index("--target") + 1] == os.path.join(venv, "peers", name)
        assert peer[-2:] == ["-r", str(ROOT / f"requirements-{name}.txt")]
    fake_work.clear()
    assert setup_env.main(["--venv", venv, "--python-chosen"]) == 0
    assert fake_work == []


def test_torch_comes_first_and_only_from_the_named_index(tmp_path, fake_work):
    venv = tmp_path / "env"
    assert setup_env.main(["--venv", str(venv), "--torch-index", "http://cpu"]) == 0
    torch = fake_work[1]
    assert torch[torch.index("--index-url") + 1] == "http://cpu"
    assert "--no-deps" in torch
    assert torch[-2:] == ["torch==2.14.1", "torchvision==0.29.1"]
    assert json.loads((venv / "setup.json").read_text())["torch_index"] == "http://cpu"


def test_update_keeps_the_environment_and_its_torch_index(tmp_path, fake_work):
    venv = tmp_path / "env"
    make_finished(venv, pins="other", torch_index="http://cpu")
    assert setup_env.main(["--venv", str(venv)]) == 0
    assert "create" not in fake_work
    assert "http://cpu" in fake_work[0]
    assert setup_env.plan(str(venv), setup_env.wanted_stamp(None, "http://cpu")) == "nothing"


def test_update_leaves_nothing_of_older_peers(tmp_path, fake_work):
    venv = tmp_path / "env"
    make_finished(venv, pins="other")
    for peer in ("mmpretrain", "of-an-older-release"):
        (venv / "peers" / peer / f"{peer}-1.1.0.dist-info").mkdir(parents=True)
    assert setup_env.main(["--venv", str(venv)]) == 0
    assert not (venv / "peers").exists()  # pip, which is not run here, makes it anew


def test_other_python_rebuilds_and_says_so(tmp_path, fake_work, capsys):
    venv = tmp_path / "env"
    make_finished(venv, python="3.9")
    assert setup_env.main(["--venv", str(venv), "--python-chosen"]) == 0
    assert fake_work[0] == "create"
    assert "was made with Python 3.9" in capsys.readouterr().out


def test_failed_install_leaves_no_stamp(tmp_path, fake_work, monkeypatch, capsys):
    venv = tmp_path / "env"
    make_finished(venv, pins="other")
    monkeypatch.setattr(setup_env, "run_shown", lambda *_: (1, ["ERROR: out of luck"]))
    assert setup_env.main(["--venv", str(venv)]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert setup_env.plan(str(venv), setup_env.wanted_stamp(None, None)) == "rebuild"


# pip


def test_unreachable_index_is_one_sentence(tmp_path):
    """The whole way: a real environment without packages, and a port where nobody listens."""
    result = run_script(
        "--venv",
        tmp_path / "env",
        SETUP_NEED_GB="0.1",
        PIP_CONFIG_FILE=os.devnull,
        PIP_INDEX_URL="http://127.0.0.1:9/simple",
        PIP_EXTRA_INDEX_URL="",
        PIP_FIND_LINKS="",
        PIP_RETRIES="1",
        NO_PROXY="127.0.0.1",
    )
    assert_one_sentence(result, "No network", "PIP_INDEX_URL", "setup.log")
    assert "Step 1/4" in result.stdout


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("OSError: [Errno 28] No space left on device", ["disk filled up", "TMPDIR="]),
        ("WARNING: Retrying after NameResolutionError: ...", ["No network", "NameResolutionError"]),
        ("ERROR: No matching distribution found for torch==9", ["no wheel of torch==9 for"]),
        (
            "ERROR: ... (from versions: none)\nERROR: No matching distribution found for x==1",
            ["no wheel of x==1 at all, or cannot be reached"],
        ),
        ("ERROR: ResolutionImpossible", ["pip failed and said 'ERROR: ResolutionImpossible'"]),
    ],
)
def test_explain_says_why_pip_failed(line, parts):
    sentence = setup_env.explain(["Collecting torch", line, "..."], "/env", None)
    for part in [*parts, "/env"]:
        assert part in sentence


def test_explain_names_the_index_without_its_password():
    lines = ["ERROR: No matching distribution found for torch==2.14.1"]
    sentence = setup_env.explain(lines, "/env", "https://me:secret@wheels.example/cpu")
    assert "https://wheels.example/cpu" in sentence
    assert "TORCH_INDEX" in sentence
    assert "secret" not in sentence


def test_explain_of_silence():
    assert "said 'nothing'" in setup_env.explain([], "/env", None)


def test_pip_shows_its_progress_in_short_lines(tmp_path, monkeypatch):
    words = [
        "Looking in indexes: somewhere",
        "Collecting torch==2.14.1 (from -r requirements.txt (line 5))",
        "Processing /some/where/six-1.17.0-py2.py3-none-any.whl",
        "Installing collected packages: six, torch",
    ]
    code = (
        f"import time\nfor w in {words}: print(w, flush=True)\ntime.sleep(0.5)\nraise SystemExit(3)"
    )
    monkeypatch.setattr(setup_env, "HEARTBEAT_S", 0.2)
    log, progress = io.StringIO(), Recorder()
    status, lines = setup_env.run_shown([sys.executable, "-c", code], None, log, progress)
    assert status == 3
    assert lines == words
    assert log.getvalue().splitlines() == words
    shown = [text for text in progress.said if not text.startswith("...")]
    assert shown == [
        "Collecting torch==2.14.1",
        "Processing six-1.17.0-py2.py3-none-any.whl",
        "Installing packages: 2",
    ]
    assert progress.said[-1] == "... Installing packages: 2"  # the sign of life


def test_child_stays_inside_the_environment(monkeypatch):
    for name in ("PYTHONPATH", "PYTHONHOME", "PIP_TARGET"):
        monkeypatch.setenv(name, "/elsewhere")
    monkeypatch.setenv("PIP_USER", "1")
    monkeypatch.setenv("PIP_INDEX_URL", "http://mine")
    environ = setup_env.child_environ()
    assert not {"PYTHONPATH", "PYTHONHOME", "PIP_TARGET"} & set(environ)
    assert environ["PIP_USER"] == "0"
    assert environ["PIP_INDEX_URL"] == "http://mine"


def test_only_this_index_drops_other_sources_and_keeps_the_way_out():
    config = "\n".join(
        [
            "global.cert='/etc/own.pem'",
            "global.extra-index-url='http://other'",
            "install.trusted-host='wheels.example'",
            ":env:.proxy='http://from-env'",
        ]
    )
    given = {"PIP_EXTRA_INDEX_URL": "http://other", "PIP_FIND_LINKS": "/wheels", "PATH": "/bin"}
    environ = setup_env.only_this_index(given, config)
    assert environ == {
        "PATH": "/bin",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_CERT": "/etc/own.pem",
        "PIP_TRUSTED_HOST": "wheels.example",
    }
    assert "PIP_FIND_LINKS" in given


@pytest.mark.parametrize(
    ("said", "parts"),
    [
        ("ImportError: libGL.so.1: cannot open shared object file: No such file", ["libGL.so.1"]),
        ("ImportError: numpy is broken", ["does not work", "numpy is broken"]),
    ],
)
def test_environment_that_does_not_import(tmp_path, monkeypatch, said, parts):
    make_finished(tmp_path / "env")
    monkeypatch.setattr(setup_env, "PROOF", f"import sys; sys.exit({said!r})")
    with pytest.raises(setup_env.SetupError) as error:
        setup_env.prove(str(tmp_path / "env"))
    for part in parts:
        assert part in str(error.value)


# The Makefile


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
class TestMake:
    def run_make(self, *arguments):
        # `make test VENV=...` hands its own variables down to here.
        given = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "VENV", "PYTHON", "TORCH_INDEX", "ARGS")
        environ = {key: value for key, value in os.environ.items() if key not in given}
        return subprocess.run(
            ["make", *arguments],
            cwd=ROOT,
            env=environ,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    @pytest.mark.parametrize("python", ["", "/no/such/python3"])
    def test_absent_python(self, tmp_path, python):
        result = self.run_make("demo", f"VENV={tmp_path / 'env'}", f"PYTHON={python}")
        assert_one_sentence(result, f"PYTHON={python} is not to be found", "3.10 to 3.13")

    def test_failed_set_up_ends_the_command(self, tmp_path):
        (tmp_path / "mine").touch()
        result = self.run_make("demo", f"VENV={tmp_path}", f"PYTHON={sys.executable}")
        assert_one_sentence(result, "not made by this set-up")
        assert "tools/demo.py" not in result.stdout

    def test_only_a_named_python_is_insisted_on(self, tmp_path):
        make_finished(tmp_path / "env")
        start = ["-n", "test", f"VENV={tmp_path / 'env'}"]
        assert "--python-chosen" not in self.run_make(*start).stdout
        assert "--python-chosen" in self.run_make(*start, "PYTHON=python3").stdout

    def test_help_is_the_default(self):
        result = self.run_make()
        assert result.returncode == 0
        for word in ("make demo", "make test", "make lint", "VENV=", "PYTHON=", "TORCH_INDEX="):
            assert word in result.stdout


# The metadata


def read_setup():
    """Returns the arguments that setup.py calls setuptools with."""
    given = {}
    original = setuptools.setup
    setuptools.setup = lambda **arguments: given.update(arguments)
    before = os.getcwd()
    try:
        os.chdir(ROOT)
        runpy.run_path(str(ROOT / "setup.py"))
    finally:
        setuptools.setup = original
        os.chdir(before)
    return given


def read_pins(file="requirements.txt", **environ):
    """Returns the pins that count in this Python, or where the given markers hold."""
    lines = (ROOT / file).read_text("utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return [pin for pin in pins if pin.marker is None or pin.marker.evaluate(environ)]


def test_setup_names_the_package_and_its_rooms():
    arguments = read_setup()
    assert arguments["name"] == "mmconvnext"
    init = (ROOT / "mmconvnext" / "__init__.py").read_text("utf-8")
    assert f'__version__ = "{arguments["version"]}"' in init
    rooms = {path.parent.name for path in ROOT.glob("mmconvnext/*/__init__.py")}
    assert {f"mmconvnext.{room}" for room in rooms} | {"mmconvnext"} <= set(arguments["packages"])
    assert all(name.split(".")[0] == "mmconvnext" for name in arguments["packages"])


def test_setup_never_forces_an_mmcv():
    names = {Requirement(text).name for text in read_setup()["install_requires"]}
    assert {"torch", "mmengine", "mmdet", "numpy", "pycocotools", "setuptools"} == names
    for name in sorted(names - {"setuptools"}):
        for text in importlib.metadata.requires(name) or []:
            requirement = Requirement(text)
            needed = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            assert not (requirement.name.startswith("mmcv") and needed), f"{name} forces {text}"
    assert any(text.startswith("mmcv-lite") for text in read_setup()["extras_require"]["lite"])


def test_pins_lie_within_the_ranges_of_setup():
    arguments = read_setup()
    pins = {pin.name.lower(): next(iter(pin.specifier)) for pin in read_pins()}
    assert all(specifier.operator == "==" for specifier in pins.values())
    extras = arguments["extras_require"]
    for text in [*arguments["install_requires"], *extras["lite"], *extras["test"]]:
        requirement = Requirement(text)
        assert pins[requirement.name].version in requirement.specifier, text


@pytest.mark.parametrize("file", PIN_FILES)
@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
def test_every_python_gets_one_pin_of_each(python, file):
    lines = (ROOT / file).read_text("utf-8").splitlines()
    all_names = {Requirement(line).name for line in lines if line and not line.startswith("#")}
    names = [pin.name for pin in read_pins(file, python_version=python)]
    assert sorted(names) == sorted(all_names)


@pytest.mark.parametrize("peer", setup_env.PEERS)
def test_a_peer_is_pinned_only_in_the_folder_of_its_own(peer):
    pins = read_pins(f"requirements-{peer}.txt")
    assert all(next(iter(pin.specifier)).operator == "==" for pin in pins)
    names = {pin.name for pin in pins}
    assert peer in names
    # What lies in both would be there twice, and one would hide the other.
    assert not names & {pin.name for pin in read_pins()}
    for text in read_setup()["extras_require"]["test"]:
        assert Requirement(text).name not in names
