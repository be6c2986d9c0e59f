"""What a detector costs, as a table and as a file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from mmengine.config import Config
from terminaltables import AsciiTable

from mmconvnext.engine.provenance import run_info
from mmconvnext.errors import UserError

UNIT = "params in 1, FLOPs in multiply-adds"


@dataclass(frozen=True)
class Part:
    """What one part of a detector costs.

    Attributes:
        name: within the detector, for example ``roi_head.bbox_head.0``.
        params: number of parameters.
        flops: multiply-adds for one image, over all its regions.
    """

    name: str
    params: int
    flops: int


@dataclass(frozen=True)
class Cost:
    """What a detector costs.

    Attributes:
        shape: height and width of the image in pixels.
        params: number of parameters.
        flops: multiply-adds for one image.
        parts: in the order in which the detector holds them; they add up to the whole.
        protocol: what was counted, in a sentence.
    """

    shape: tuple[int, int]
    params: int
    flops: int
    parts: tuple[Part, ...]
    protocol: str


def cost_table(cost: Cost) -> str:
    """Format a cost as a table of parts with their sum, and the protocol below it."""
    rows = [["part", "params, M", "FLOPs, G"]]
    rows += [_row(part.name, part) for part in cost.parts]
    table = AsciiTable([*rows, _row("sum", cost)])
    table.inner_footing_row_border = True
    table.justify_columns = {1: "right", 2: "right"}
    return f"{table.table}\nFLOPs: {cost.protocol}"


def write_cost(cost: Cost, cfg: Config, path: str) -> None:
    """Write a cost and what it was counted with as JSON.

    Args:
        cost: of the config's model.
        cfg: a config read from a file.
        path: of the file; missing folders are made.

    Raises:
        UserError: the file cannot be written.
    """
    text = json.dumps({"unit": UNIT, **asdict(cost), "run": run_info(cfg)}, indent=2) + "\n"
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def _row(name: str, cost: Part | Cost) -> list[str]:
    return [name, f"{cost.params / 1e6:.1f}", f"{cost.flops / 1e9:.1f}"]
