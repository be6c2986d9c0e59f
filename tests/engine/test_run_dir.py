"""Which config and which checkpoint of a work folder are used."""

import json
import os

import pytest

from mmconvnext.engine.run_dir import find_run
from mmconvnext.errors import UserError


@pytest.fixture
def folder(tmp_path):
    run = tmp_path / "20260101_000000" / "run.json"
    run.parent.mkdir()
    run.write_text(json.dumps({"config": "configs/mask.py"}))
    for name in ("mask.py", "mask_train_on_dataset.py"):
        (tmp_path / name).write_text("")
    return tmp_path


def test_the_best_by_mask_ap_comes_first_then_any_best_then_the_last(folder):
    with pytest.raises(UserError, match=r"no checkpoint yet \(best_\*.pth, epoch"):
        find_run(folder)
    (folder / "epoch_2.pth").write_bytes(b"")
    # as MMEngine writes it, of a folder that was moved since
    (folder / "last_checkpoint").write_text("elsewhere/epoch_2.pth")
    assert find_run(folder) == (folder / "mask.py", folder / "epoch_2.pth")
    for name in ("best_coco_bbox_mAP_epoch_1.pth", "best_coco_segm_mAP_epoch_1.pth"):
        (folder / name).write_bytes(b"")
        assert find_run(folder).checkpoint.name == name
    newer = folder / "best_coco_segm_mAP_epoch_10.pth"
    newer.write_bytes(b"")
    os.utime(newer, (2e9, 2e9))
    assert find_run(folder).checkpoint == newer


def test_other_folders_are_refused(tmp_path):
    with pytest.raises(UserError, match="there is no folder"):
        find_run(tmp_path / "absent")
    with pytest.raises(UserError, match="no work folder of a training: it has 0 configs"):
        find_run(tmp_path)
