import pytest
from mmengine.config import Config

from mmconvnext.data.paths import check_data_paths, check_dataset, write_whole
from mmconvnext.errors import DataError


def config(root) -> Config:
    dataset = {"data_root": f"{root}/", "ann_file": "ann/a.json", "data_prefix": {"img": "train/"}}
    return Config(
        {
            "train_dataloader": {"dataset": {"type": "RepeatDataset", "dataset": dataset}},
            "val_evaluator": {"ann_file": f"{root}/ann/b.json"},
            "val_dataloader": {"dataset": {"datasets": [dataset]}},
        }
    )


def make(root, *paths):
    for path in paths:
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.suffix:
            target.write_text("{}")
        else:
            target.mkdir()


def test_complete_data_passes(tmp_path):
    make(tmp_path, "ann/a.json", "ann/b.json", "train")
    check_data_paths(config(tmp_path), ("train", "val", "test"))


@pytest.mark.parametrize(
    ("paths", "split", "says"),
    [
        ((), "train", r"data folder .*/nowhere/ \(train_datal.* does not exist.*ann/a.json, tr"),
        (("train",), "train", r"annotation file .*ann/a.json \(train_dataloader"),
        (("ann/a.json",), "val", r"image folder .*train \(val_dataloader.*--data-root"),
        (("ann/a.json", "train"), "val", r"ann/b.json \(val_evaluator.ann_file\)"),
    ],
)
def test_what_is_missing_is_named(tmp_path, paths, split, says):
    make(tmp_path / "nowhere", *paths)
    with pytest.raises(DataError, match=says):
        check_data_paths(config(tmp_path / "nowhere"), (split,))


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "folder" / "a.json"
    write_whole(path, "whole")
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "half \ud800")
    assert [(p.name, p.read_text()) for p in path.parent.iterdir()] == [("a.json", "whole")]


class DataSet:
    ann_file = "a.json"
    metainfo = {"classes": ("cat", "dog", "cow", "pig", "hen")}

    def __init__(self, cat_ids, images):
        self.cat_ids, self.images = cat_ids, images

    def __len__(self):
        return len(self.images)

    def get_data_info(self, index):
        return {"img_path": self.images[index]}


@pytest.mark.parametrize(
    ("cat_ids", "images", "says"),
    [
        ([], ["x"], "a.json has none of the classes cat, dog, cow, pig, ....*metainfo"),
        ([1], [], "a.json has no image to use"),
        ([1], ["no/such.jpg"], "no/such.jpg, an image of a.json, does not exist"),
    ],
)
def test_data_sets_without_anything_to_use(cat_ids, images, says):
    with pytest.raises(DataError, match=says):
        check_dataset(DataSet(cat_ids, images))


def test_a_class_that_is_no_tuple_is_shown_as_one():
    dataset = DataSet([1], ["x"])
    dataset.metainfo = {"classes": "cat"}
    with pytest.raises(DataError, match=r"classes='cat'\) of a\.json is .*write \('cat',\)"):
        check_dataset(dataset)


def test_a_data_set_that_is_all_there_passes():
    dataset = DataSet([1], [__file__])
    check_dataset(dataset)
    dataset.metainfo = ["of another library"]
    check_dataset(dataset)
    check_dataset([1, 2])
