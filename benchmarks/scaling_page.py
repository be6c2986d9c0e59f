"""The page of scaling: pictures and tables, as the tool writes them."""

from __future__ import annotations

from pathlib import Path

from benchmarks.scaling_pictures import draw
from benchmarks.scaling_report import ScalingReport
from mmconvnext.errors import UserError

NAME = "scaling.md"
INTRODUCTION = """# Scaling

This page answers how time and memory grow with image, batch, model and processes: points are
measured, lines are fitted to them by least squares. Written, with its pictures, by

```sh
python tools/benchmark.py scaling --data-root DIR --out docs
```
"""


def write_page(report: ScalingReport, folder: Path) -> list[Path]:
    """Draw the pictures and write the page that shows them.

    Args:
        report: what was measured.
        folder: is there.

    Returns:
        The files, the page first.

    Raises:
        UserError: a file cannot be written.
    """
    page = folder / NAME
    try:
        images = folder / "images"
        images.mkdir(exist_ok=True)
        pictures = draw(report, images)
        shown = [f"![{caption}](images/{path.name})" for path, caption in pictures.items()]
        page.write_text(
            "\n\n".join([INTRODUCTION.strip(), *shown, report.text(markdown=True)]) + "\n",
            encoding="utf-8",
        )
    except OSError as error:
        raise UserError(f"cannot write {error.filename or folder}: {error.strerror}") from error
    return [page, *pictures]
