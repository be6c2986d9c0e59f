"""A small data set, and what is logged."""

import json

import numpy as np
import pytest

from tests.evaluation.coco_data import predictions, truth


@pytest.fixture(params=[0, 1, 2])
def data(request, tmp_path):
    """The path of an annotation file, and detections on its images."""
    rng = np.random.default_rng(request.param)
    content = truth(rng)
    (tmp_path / "truth.json").write_text(json.dumps(content))
    return tmp_path / "truth.json", predictions(rng, content)
