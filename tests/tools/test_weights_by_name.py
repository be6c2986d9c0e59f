"""A user names weights of timm in a config and gets them, later without a network, too."""

import pytest
import torch
from safetensors.torch import save

from tests.weights.server import running

NAME = "timm://convnextv2_atto.fcmae"
FILE = "/timm/convnextv2_atto.fcmae/resolve/main/model.safetensors"
CONFIG = "configs/mask_rcnn_convnextv2_atto_coco.py"
REPORT = f"from {NAME} (timm layout, V2 atto); new, not in the file: norm0"
# A process that needs no detector: what is in the cache without a network is another's to load.
FETCH = "import sys, mmconvnext.weights.sources as s; print(s.fetch(sys.argv[1]).read_bytes()[:9])"


@pytest.fixture(scope="module")
def weights() -> bytes:
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        state = timm.create_model("convnextv2_atto", num_classes=0).state_dict()
    return save({k: torch.zeros(v.shape, dtype=torch.float16) for k, v in state.items()})


@pytest.mark.slow
def test_by_name_from_the_hub_and_then_offline(
    run_tool, run_python, tmp_path, weights, monkeypatch
):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    command = ["weights.py", "verify", CONFIG, "--cfg-options"]
    with running() as server:
        server.files[FILE] = weights
        options = f"model.backbone.init_cfg.checkpoint={NAME}"
        process = run_tool(*command, options, env={"HF_ENDPOINT": server.url("")})
        asked = [path for path, _ in server.requests]
    assert process.returncode == 0, process.stderr
    assert REPORT in process.stdout
    assert FILE in asked
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert run_python(FETCH, NAME).strip() == str(weights[:9])
