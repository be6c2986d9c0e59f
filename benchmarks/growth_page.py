"""The page of growth: pictures and tables, as the tool writes them."""

from __future__ import annotations

from pathlib import Path

from benchmarks.growth_pictures import draw
from benchmarks.growth_report import GrowthReport
from mmconvnext.errors import UserError

NAME = "growth.md"
INTRODUCTION = """# Growth

How time and memory grow with what a ConvNeXt is given: points are measured, lines are fitted to
them by least squares. Written, with its pictures, by

```sh
python tools/benchmark.py growth --data-root DIR --out docs
```
"""


def write_page(report: GrowthReport, folder: Path) -> list[Path]:
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
        pictures = draw(report, folder)
        shown = [f"![{caption}]({path.name})" for path, caption in pictures.items()]
        page.write_text(
            "\n\n".join([INTRODUCTION.strip(), *shown, report.text(markdown=True)]) + "\n",
            encoding="utf-8",
        )
    except OSError as error:
        raise UserError(f"cannot write {error.filename or folder}: {error.strerror}") from error
    return [page, *pictures]
