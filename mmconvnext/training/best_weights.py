"""The weights of a checkpoint alone, as safetensors, with a JSON file that says what they are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmengine.runner import Runner

from mmconvnext.compat.checkpoint_io import read_checkpoint
from mmconvnext.data.paths import write_whole
from mmconvnext.weights.detector import classes_of
from mmconvnext.weights.load import write_safetensors

SUFFIXES = (".safetensors", ".json")


def write_weights(checkpoint: Path, runner: Runner, metrics: Mapping[str, float]) -> None:
    """Write ``NAME.safetensors`` and ``NAME.json`` beside a checkpoint.

    The weights are those that a test loads: with an EMAHook the averaged ones.

    Args:
        checkpoint: a file that the runner wrote.
        runner: of the training; what was written into its log's folder is taken up.
        metrics: of the validation that chose the checkpoint.

    Raises:
        WeightsError: the file cannot be written.
        OSError: the JSON file cannot be written.
    """
    content = read_checkpoint(checkpoint, mmap=True)
    meta = content["meta"]
    path = checkpoint.with_suffix(".safetensors")
    write_safetensors(path, content["state_dict"], {"format": "pt"}, force=True)
    run, checks = (_read(Path(runner.log_dir, name)) for name in ("run.json", "data_checks.json"))
    about = {
        "weights": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "epoch": meta["epoch"],
        "iter": meta["iter"],
        "averaged": "ema_state_dict" in content,
        "metrics": {name: float(value) for name, value in metrics.items()},
        "classes": classes_of(content),
        "config": Path(runner.cfg.filename or "").name,
        "config_sha256": hashlib.sha256(meta["cfg"].encode()).hexdigest(),
        "versions": {"mmengine": meta["mmengine_version"], **(run or {}).get("packages", {})},
        "mmconvnext": {key: (run or {}).get(key) for key in ("mmconvnext", "git_revision")},
        "data_checks": [
            {**each, "findings": {found["kind"]: found["count"] for found in each["findings"]}}
            for each in checks or ()
        ],
    }
    write_whole(path.with_suffix(".json"), json.dumps(about, indent=2, ensure_ascii=False) + "\n")


def _read(path: Path) -> Any:
    with suppress(FileNotFoundError):  # only the command writes it
        return json.loads(path.read_bytes())
