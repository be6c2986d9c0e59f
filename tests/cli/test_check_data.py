"""``mmconvnext check-data`` of one annotation file."""

import pytest

from mmconvnext.data import generate_shapes


@pytest.fixture
def file(tmp_path):
    generate_shapes(tmp_path / "shapes", num_train=2, num_val=1, image_size=64)
    return tmp_path / "shapes" / "annotations" / "instances_train.json"


def test_a_file_is_checked_without_a_config(main, file):
    printed = main("check-data", file, "--images", file.parent.parent / "train")
    assert "annotation files that can be used: 1" in printed
    for picture in (file.parent.parent / "train").iterdir():
        picture.unlink()
    printed = main("check-data", file, "--images", file.parent.parent / "train", code=1)
    assert "error: " in printed


@pytest.mark.parametrize("option", [["--oracle"], ["--data-root", "."], ["--dataset", "."]])
def test_options_of_a_config_are_refused(main, file, option):
    printed = main("check-data", file, *option, code=1)
    assert "error: --oracle, --data-root and --dataset need a config" in printed
