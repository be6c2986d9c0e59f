"""What the tests share."""

import gc
import os
import shutil
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mmengine.config import config
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope

import mmconvnext  # noqa: F401 (must come before the mmcv.ops and the mmdet that the tests import)
from mmconvnext import cli

REPO = Path(__file__).resolve().parent.parent
SLOW = {"two_processes", "demo", "failures"}  # fixtures: one test takes as long as all that use it


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    for item in items:
        if SLOW.intersection(item.fixturenames):
            item.add_marker("slow")


@pytest.fixture(scope="session")
def repo() -> Path:
    return REPO


@pytest.fixture(scope="session")
def run_python(repo: Path) -> Callable[..., str]:
    """Run code in a fresh process and return what it printed; a failure fails the test."""

    def run(code: str, *arguments: object, stdin: str = "", python_path: object = "") -> str:
        process = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            cwd=repo,
            env={**os.environ, "PYTHONPATH": f"{repo}{os.pathsep}{python_path}"},
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
        assert process.returncode == 0, process.stderr
        return process.stdout

    return run


@pytest.fixture
def main(capsys, monkeypatch) -> Callable[..., str]:
    """Call ``main("flops", "CONFIG", ..., code=0)`` for what was printed on stdout and stderr."""
    # MMEngine keeps loggers by name, with the stderr that was captured when they were made.
    monkeypatch.setattr(MMLogger, "_instance_dict", OrderedDict())

    def call(*arguments: object, code: int = 0) -> str:
        assert cli.main([str(argument) for argument in arguments]) == code
        out, err = capsys.readouterr()
        assert len([line for line in err.splitlines() if line.startswith("error: ")]) == code
        return out + err

    return call


@pytest.fixture(scope="session")
def coco_tiny() -> Path:
    """The real subset of COCO, or a skip where it is absent."""
    root = Path(os.environ.get("COCO_TINY", REPO.parent / "shared" / "data" / "coco_tiny"))
    if not root.is_dir():
        pytest.skip(
            f"no subset of COCO in {root}: make one as CONTRIBUTING.md says, and let COCO_TINY be "
            "its folder"
        )
    return root


@pytest.fixture(scope="session", autouse=True)
def _imports_are_no_garbage() -> None:
    """MMEngine calls gc.collect() for each data set, which went through all that is imported."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _without_yapf() -> Iterator[None]:
    """Configs are written as they come: MMEngine formats one nine times in a short training.

    To do that takes most of its time. Commands in processes of their own do it.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config, "FormatCode", lambda text, **_: (text, True))
        yield


@pytest.fixture(autouse=True)
def _scope() -> Iterator[None]:
    """MMDetection's registries are asked, whatever scope the runner of an earlier test left."""
    init_default_scope("mmdet")
    yield
    init_default_scope("mmdet")  # fixtures of a module or of all come before this one


@pytest.fixture
def notes(caplog) -> Iterator[Callable[[], list[str]]]:
    """The lines in MMEngine's log."""
    logger = MMLogger("test", logger_name="test")
    MMLogger._instance_dict["test"] = logger
    MMLogger._instance_dict.move_to_end("test")  # the last one is asked
    logger.addHandler(caplog.handler)
    yield lambda: [record.getMessage() for record in caplog.records]
    MMLogger._instance_dict.pop("test")


@pytest.fixture
def lines(notes) -> Callable[[], list[str]]:
    """The lines in MMEngine's log that report a backbone's load."""
    of_all = "detector: "
    return lambda: [n for n in notes() if ": loaded " in n and not n.startswith(of_all)]


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium, or a skip where it cannot be had."""
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        launched = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def violations(repo):
    """What axe-core finds on a page in a light or dark scheme."""
    places = (os.environ.get("AXE"), repo / "node_modules/axe-core/axe.min.js")
    axe = next((path for path in places if path and Path(path).is_file()), None)
    if axe is None:
        pytest.skip("no axe-core: npm install --no-save axe-core")

    def violations(tab, scheme: str) -> list:
        tab.emulate_media(color_scheme=scheme)
        tab.evaluate(Path(axe).read_text("utf-8"))  # a page may allow no other scripts
        found = tab.evaluate("axe.run()")["violations"]
        return [(each["id"], [n["html"] for n in each["nodes"]][:3]) for each in found]

    return violations
