"""What is installed: package, configs and command; a user's config trains in an empty folder."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import mmconvnext

# With the first line that MMDetection's own tools understand, too: they import no plugin before.
BASES = {
    "mmconvnext": '"mmconvnext::cascade_convnext_overfit.py"',
    "mmdet": '__import__("mmconvnext").config_path("cascade_convnext_overfit.py")',
}
OWN_CONFIG = """\
_base_ = {base}

root = "{root}/"
dataset = dict(data_root=root, indices=2)
train_cfg = dict(max_iters=2, val_interval=2)
train_dataloader = dict(dataset=dataset)
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dataset)
test_dataloader = val_dataloader
optim_wrapper = dict(type="OptimWrapper")
model = dict(test_cfg=dict(rpn=dict(max_per_img=20), rcnn=dict(score_thr=0.0, max_per_img=5)))
"""
SMALL = [
    "--cfg-options",
    "train_dataloader.dataset.pipeline.2.scale=(256,192)",
    "val_dataloader.dataset.pipeline.1.scale=(256,192)",
]


def run(*command: object, cwd: Path) -> str:
    """Run a command as a user would who knows nothing of this checkout; return what it printed."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    command = [str(part) for part in command]
    result = subprocess.run(command, cwd=cwd, env=environ, **streams, check=False)
    assert result.returncode == 0, result.stdout[-5000:]
    return result.stdout


def build(kind: str, sources: Path, folder: Path) -> Path:
    """What pip and `python -m build` call in a process of its own."""
    code = f"import sys; from setuptools import build_meta; build_meta.build_{kind}(sys.argv[1])"
    run(sys.executable, "-c", code, folder, cwd=sources)
    (built,) = folder.iterdir()
    return built


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def sources(repo, tmp_path_factory) -> Path:
    """A copy of the checkout, in which an earlier build has left a module that is gone."""

    def ignore(folder: str, names: list[str]) -> list[str]:
        own = {"build", "data", "demo", "dist", "work_dirs"} if Path(folder) == repo else set()
        environments = {name for name in names if Path(folder, name, "pyvenv.cfg").exists()}
        hidden = {name for name in names if name.startswith(".")}
        return [*(set(names) & own), *environments, *hidden, "__pycache__"]

    copy = shutil.copytree(repo, tmp_path_factory.mktemp("sources") / "checkout", ignore=ignore)
    stale = copy / "build" / "lib" / "mmconvnext" / "gone.py"
    stale.parent.mkdir(parents=True)
    stale.touch()
    return copy


@pytest.fixture(scope="module")
def wheel(sources, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation")
    run(*pip, "--wheel-dir", folder, sources, cwd=sources)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_has_the_package_its_configs_and_the_command(repo, wheel):
    def below(folder: str, to: str) -> set[str]:
        files = [p.relative_to(repo / folder) for p in (repo / folder).rglob("*") if p.is_file()]
        return {f"{to}/{p.as_posix()}" for p in files if "__pycache__" not in p.parts}

    found = contents(wheel)
    info = f"mmconvnext-{mmconvnext.__version__}.dist-info"
    index = {"mmconvnext/.mim/model-index.yml", "mmconvnext/.mim/configs/metafile.yml"}
    expected = below("mmconvnext", "mmconvnext") | below("configs", "mmconvnext/.mim/configs")
    assert {name for name in found if not name.startswith(info)} == expected | index
    assert b"mmconvnext = mmconvnext.cli:main" in found[f"{info}/entry_points.txt"]
    assert "mmconvnext/py.typed" in found


def test_the_wheel_made_from_the_sdist_is_the_same(sources, wheel, tmp_path):
    # What `python -m build` does.
    sdist = build("sdist", sources, tmp_path / "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    again = build("wheel", tmp_path / sdist.name.removesuffix(".tar.gz"), tmp_path / "again")
    assert contents(again) == contents(wheel)


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The `bin` of an environment with the wheel, and with the other packages of this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index")
    run(*pip, wheel, cwd=folder)
    # A line of a .pth file is a folder of modules; .pth files in it, as of editable installs of
    # a checkout, are not read.
    code = "import site; print(site.getsitepackages()[0])"
    site_packages = run(python, "-c", code, cwd=folder).strip()
    Path(site_packages, "others.pth").write_text(sysconfig.get_path("purelib"))
    code = "import mmconvnext; print(mmconvnext.__file__)"
    where = run(python, "-c", code, cwd=folder)
    assert Path(where.strip()).is_relative_to(folder)
    return folder / "bin"


@pytest.mark.slow
@pytest.mark.parametrize("train", ["mmconvnext", "mmdet"])
def test_a_config_of_a_user_inherits_trains_and_evaluates(installed, coco_tiny, tmp_path, train):
    config = OWN_CONFIG.format(base=BASES[train], root=coco_tiny)
    (tmp_path / "own.py").write_text(config)
    if train == "mmconvnext":
        command = [installed / "mmconvnext", "train"]
    else:
        import mmdet

        command = [installed / "python", Path(mmdet.__file__).parent / ".mim/tools/train.py"]
    printed = run(*command, "own.py", *SMALL, cwd=tmp_path)
    for kind, name in (("bbox", "box"), ("segm", "mask")):  # a table, or MMEngine's line
        assert (f"| {name} " if train == "mmconvnext" else f"coco/{kind}_mAP: 0.") in printed
    assert (tmp_path / "work_dirs" / "own" / "iter_2.pth").is_file()
