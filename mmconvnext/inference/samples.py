"""Pictures of a config's data sets, as an exported detector takes them."""

from __future__ import annotations

import random
from contextlib import redirect_stdout
from io import StringIO

import numpy as np
from mmdet.registry import DATASETS, TRANSFORMS
from mmdet.utils import get_test_pipeline_cfg
from mmengine.config import Config
from mmengine.registry import init_default_scope
from numpy.typing import NDArray

from mmconvnext.data.paths import check_data_paths, check_dataset, leaf_datasets
from mmconvnext.errors import ConfigError
from mmconvnext.inference.inputs import read_image


def sample_pictures(cfg: Config, split: str, count: int, seed: int = 0) -> list[NDArray]:
    """Draw pictures without repetition, the same ones for the same seed.

    Args:
        cfg: complete.
        split: ``train``, ``val`` or ``test``, whose data loader names the data sets.
        count: of pictures; all where there are fewer.
        seed: of the random numbers.

    Returns:
        Pictures (H, W, 3), uint8 RGB, loaded as in a test and not changed otherwise.

    Raises:
        ConfigError: the config has no such data.
        DataError: the data is not there.
    """
    if not cfg.get(f"{split}_dataloader"):
        raise ConfigError(f"{cfg.filename} has no {split}_dataloader, whose pictures are needed")
    check_data_paths(cfg, (split,))
    init_default_scope(cfg.get("default_scope", "mmdet"))
    paths = []
    for leaf in leaf_datasets(cfg[f"{split}_dataloader"]["dataset"]):
        with redirect_stdout(StringIO()):  # pycocotools says that it reads, but not which file
            dataset = DATASETS.build({**leaf, "pipeline": []})
        check_dataset(dataset)
        paths += [dataset.get_data_info(index)["img_path"] for index in range(len(dataset))]
    load = TRANSFORMS.build(get_test_pipeline_cfg(cfg)[0])
    chosen = random.Random(seed).sample(paths, min(count, len(paths)))
    return [np.ascontiguousarray(read_image(path, load)[..., ::-1]) for path in chosen]
