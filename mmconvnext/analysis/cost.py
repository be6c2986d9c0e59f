"""What a detector costs, as a table and as a file."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from mmengine.config import Config

from mmconvnext.engine.provenance import run_info
from mmconvnext.evaluation.tables import format_table

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
    for name, each in (*((part.name, part) for part in cost.parts), ("sum", cost)):
        rows.append([name, f"{each.params / 1e6:.1f}", f"{each.flops / 1e9:.1f}"])
    return f"{format_table(rows, footing=True)}\nFLOPs: {cost.protocol}"


def cost_info(cost: Cost, cfg: Config) -> dict:
    """A cost and what it was counted with, to be written as JSON.

    Args:
        cost: of the config's model.
        cfg: a config read from a file.
    """
    return {"unit": UNIT, **asdict(cost), "run": run_info(cfg)}
