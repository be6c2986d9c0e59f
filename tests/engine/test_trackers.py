"""The lines of docs/training.md that send a training's numbers to TensorBoard."""

import re

import pytest
from mmengine.registry import VISUALIZERS

from mmconvnext.engine.config import load_config


def test_the_lines_of_the_docs_write_to_tensorboard(repo, tmp_path):
    reason = "pip install tensorboard to test its backend"
    events = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason=reason
    )
    text = (repo / "docs" / "training.md").read_text()
    (lines,) = re.findall(r"```python\n(_base_ = [^`]*TensorboardVisBackend[^`]*)```", text)
    path = tmp_path / "a_config.py"
    path.write_text(lines)
    visualizer = load_config(str(path)).visualizer
    visualizer.update(name=str(tmp_path), save_dir=str(tmp_path))
    built = VISUALIZERS.build(visualizer)
    built.add_scalars({"val/loss": 1.5, "coco/segm_mAP": 0.25}, step=3)
    built.close()
    found = events.EventAccumulator(str(tmp_path / "vis_data")).Reload()
    assert {*found.Tags()["scalars"]} == {"val/loss", "coco/segm_mAP"}
    assert [(e.step, e.value) for e in found.Scalars("val/loss")] == [(3, 1.5)]
    assert (tmp_path / "vis_data" / "scalars.json").is_file(), "what the report reads"
