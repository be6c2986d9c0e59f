"""How a training went, and what it was: curves, config, versions, commands."""

from __future__ import annotations

import json
import re
import shlex
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmconvnext.engine.config import load_config
from mmconvnext.engine.own_data import difference
from mmconvnext.errors import UserError

POINTS = 300  # of a curve, at most
CURVES = {  # title -> pattern of the names that MMEngine logs
    "loss": r"(val/)?loss|loss_.*|[^/]*\.loss_.*",
    "learning rate": r"lr",
    "AP on the validation set": r".*/(bbox|segm)_mAP",
}


def curves_of(folder: Path) -> dict[str, dict[str, list[list[float]]]]:
    """The curves of a training: of each title, by the name logged, points (iteration, value).

    Args:
        folder: its work folder; several runs of it, as after ``--resume``, are put together.
    """
    series: dict[str, dict[int, float]] = defaultdict(dict)
    for path in sorted(folder.glob("*/vis_data/scalars.json")):
        iteration = 0
        for line in path.read_text(encoding="utf-8").splitlines():
            with suppress(ValueError):  # the last line of a run that was killed
                entry = json.loads(line)
                # a validation is logged with the epoch as its step
                iteration = entry["iter"] if "iter" in entry and "loss" in entry else iteration
                for name, value in entry.items():
                    series[name][iteration] = value
    found: dict[str, dict[str, list[list[float]]]] = {}
    for title, pattern in CURVES.items():
        lines = {name: _thin(series[name]) for name in series if re.fullmatch(pattern, name)}
        if lines:
            found[title] = lines
    return found


def _thin(points: Mapping[int, float]) -> list[list[float]]:
    numbers = [[x, float(f"{y:.4g}")] for x, y in sorted(points.items()) if y == y]
    step = -(-len(numbers) // POINTS) or 1
    return numbers[::-1][::step][::-1]  # with the last one


def published_line(config: str, classes: int) -> str | None:
    """What a config of ours says was published for it, where it is tested on COCO's 80 classes."""
    if classes != 80:
        return None
    with suppress(UserError, OSError):
        first = Path(load_config(config).filename).read_text(encoding="utf-8").split("\n")[0]
        return first[2:] if first.startswith("# Published:") else None
    return None


def config_difference(name: str, config: Config) -> str:
    """What a run's config has that the config file of this name has not, as Python."""
    try:
        base = load_config(name).to_dict()
    except UserError:
        return f"{name} is not there any more; the whole config:\n{config.pretty_text}"
    changed = difference(base, config.to_dict())
    return Config(changed).pretty_text if changed else "nothing: it is the config file as it is"


def runs_of(folder: Path) -> Iterator[dict[str, Any]]:
    """What ``run.json`` of each run in a work folder says, with the command as it is typed."""
    for path in sorted(folder.glob("*/run.json")):
        with suppress(OSError, ValueError):
            run = json.loads(path.read_bytes())
            yield {**run, "typed": typed(run["command"])}


def typed(command: list[str]) -> str:
    """A command as it is typed into a shell."""
    program, *arguments = command
    name = Path(program).name
    start = ["mmconvnext"] if name in ("mmconvnext", "__main__.py") else ["python", program]
    return shlex.join([*start, *arguments])


def findings_of(folder: Path) -> list[str]:
    """What the data checks of the last run in a folder found, a line each."""
    for path in sorted(folder.glob("*/data_checks.json"), reverse=True):
        with suppress(OSError, ValueError):
            return list(_lines(json.loads(path.read_bytes())))
    return []


def _lines(report: list[dict[str, Any]]) -> Iterator[str]:
    for checked in report:
        for finding in checked["findings"]:
            count = f" ({finding['count']})" if finding["count"] else ""
            yield f"{Path(checked['file']).name}: {finding['kind']}: {finding['text']}{count}"
