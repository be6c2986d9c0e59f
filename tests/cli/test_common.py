import argparse
import json

import pytest

from mmconvnext.cli import common
from mmconvnext.errors import UserError


def test_shared_arguments():
    parser = argparse.ArgumentParser()
    common.add_run_arguments(parser)
    args = parser.parse_args(
        ["mask_rcnn_convnext_shapes", "--cfg-options", "a.b=1", "c=[1,2]", "--launcher", "slurm"]
    )
    assert (args.config, args.launcher) == ("mask_rcnn_convnext_shapes", "slurm")
    assert args.cfg_options == {"a.b": 1, "c": [1, 2]}
    assert (args.work_dir, args.data_root, args.local_rank) == (None, None, 0)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["a.b=1", "c.py"], "'c.py' is no KEY=VALUE"),
        (["a", "=", "1"], "'a' is no KEY=VALUE"),
        (["=1"], "'=1' is no KEY=VALUE"),
        (["a=[1,2"], "cannot read a=[1,2: Imbalanced brackets"),
    ],
)
def test_options_that_cannot_be_read_are_named(options, says, capsys):
    parser = argparse.ArgumentParser()
    common.add_config(parser, "a=1")
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(["mask_rcnn_convnext_shapes", "--cfg-options", *options])
    assert caught.value.code == 2
    assert f"--cfg-options: {says}" in capsys.readouterr().err


def test_json_goes_to_a_file_whatever_it_is_called(tmp_path, capsys):
    path = tmp_path / "new" / "found"
    common.write_json({"a": (1, 2)}, str(path))
    assert json.loads(path.read_text()) == {"a": [1, 2]}
    assert capsys.readouterr().out == f"written to {path}\n"
    with pytest.raises(UserError, match=f"cannot write {tmp_path}: "):
        common.write_json({}, str(tmp_path))
