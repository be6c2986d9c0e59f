"""A user names weights of timm in a config and gets them, later without a network, too."""

import pytest
import torch
from safetensors.torch import save

from tests.weights.server import running

NAME = "timm://convnext_tiny.fb_in22k"
FILE = "/timm/convnext_tiny.fb_in22k/resolve/main/model.safetensors"
CONFIG = "configs/mask_rcnn_convnext_t_coco.py"
REPORT = (
    "backbone: loaded 178 of 186 tensors (99.99% of the parameters) "
    f"from {NAME} (timm layout, V1 tiny); new, not in the file: norm0"
)


@pytest.fixture(scope="module")
def weights() -> bytes:
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        state = timm.create_model("convnext_tiny", num_classes=21841).state_dict()
    return save({k: torch.zeros(v.shape, dtype=torch.float16) for k, v in state.items()})


def test_by_name_from_the_hub_and_then_offline(run_tool, tmp_path, weights):
    home = {"HF_HOME": str(tmp_path), "no_proxy": "127.0.0.1", "HF_HUB_DISABLE_XET": "1"}
    options = ["--cfg-options", f"model.backbone.init_cfg.checkpoint={NAME}"]
    command = ["weights.py", "verify", CONFIG, *options]
    with running() as server:
        server.files[FILE] = weights
        process = run_tool(*command, env={**home, "HF_ENDPOINT": server.url("")})
        asked = [path for path, _ in server.requests]
    assert process.returncode == 0, process.stderr
    assert REPORT in process.stdout
    assert FILE in asked
    offline = run_tool(*command, env={**home, "HF_HUB_OFFLINE": "1"})
    assert offline.returncode == 0, offline.stderr
    assert REPORT in offline.stdout
