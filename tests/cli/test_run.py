"""`mmconvnext run`: MMDetection's own scripts with our configs, nothing imported before."""

import sys

import pytest

from mmconvnext.cli import main
from mmconvnext.compat.config_names import config_path
from tests.inference.conftest import CONFIG, checkpoint, shapes  # noqa: F401 (fixtures)

SCRIPT = """
import sys
import beside
from mmdet.registry import MODELS, RUNNERS

assert __name__ == "__main__" and beside.NUMBER == 7
assert MODELS.get("ConvNeXt").__module__ == "mmconvnext.models.convnext"
assert RUNNERS.get("DetectionRunner")
print(sys.argv)
sys.exit(3)
"""


@pytest.fixture(autouse=True)
def _process(monkeypatch):
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(sys, "path", [*sys.path])


def test_a_file(tmp_path, capsys):
    (tmp_path / "beside.py").write_text("NUMBER = 7")
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    with pytest.raises(SystemExit, match="3"):
        main(["run", str(path), f"mmconvnext::{CONFIG}", "--out", "x", "--help"])
    given = [str(path), config_path(CONFIG), "--out", "x", "--help"]
    assert str(given) in capsys.readouterr().out


@pytest.mark.slow
def test_mmdetections_scripts(checkpoint, shapes, tmp_path, capsys):  # noqa: F811
    config = tmp_path / "config.py"
    config.write_text(f'_base_ = "mmconvnext::{CONFIG}"\n')
    root = f"{shapes}/"
    sets = ["train_dataloader.dataset", "val_dataloader.dataset", "test_dataloader.dataset"]
    options = ["--cfg-options", *(f"{each}.data_root={root}" for each in sets)]
    options += [f"test_evaluator.ann_file={root}annotations/instances_val.json"]

    def run(name, *arguments):
        assert main(["run", name, str(config), *map(str, arguments), *options]) == 0
        capsys.readouterr()

    found = tmp_path / "found.pkl"
    run("test", checkpoint, "--work-dir", tmp_path / "test", "--out", found)
    assert found.is_file()
    run("browse_dataset", "--output-dir", tmp_path / "browse", "--not-show")
    assert len(list((tmp_path / "browse").glob("*.png"))) == 1  # it has one training image
    run("analyze_results", found, tmp_path / "analysis", "--topk", 2)
    assert len(list((tmp_path / "analysis" / "good").iterdir())) == 2
    run("confusion_matrix.py", found, tmp_path / "matrix")
    assert (tmp_path / "matrix" / "confusion_matrix.png").is_file()


def test_no_such_script(capsys):
    assert main(["run", "browse_data"]) == 1
    error = capsys.readouterr().err
    assert "there is no file browse_data" in error
    assert "browse_dataset, " in error
