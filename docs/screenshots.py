"""Make the pictures of README, report and serve from a demo: python docs/screenshots.py [demo].

`make demo` makes one. It needs what the tests of the report need: playwright and chromium.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

IMAGES = Path(__file__).parent / "images"
SHOWN = (0, 1, 6, 8)  # of the contact sheet's pictures, in README.md
COLUMNS, ROWS, SHEET_BYTES, SHOT_BYTES = 2, 6, 150_000, 120_000
# Of each screenshot, the element that it starts with, the scheme of colours, width, height in
# pixels, and device pixels for one of them.
SHOTS = {
    "report_light": ("", "light", 1240, 900, 1),
    "report_dark": ("pictures", "dark", 1240, 900, 1),
    "report_phone": ("pictures", "light", 390, 844, 2),
}


def save(image: Image.Image, name: str, limit: int) -> None:
    """Write a JPEG of at most so many bytes."""
    for quality in range(92, 20, -4):
        data = BytesIO()
        image.convert("RGB").save(data, "JPEG", quality=quality, optimize=True)
        if data.tell() <= limit:
            break
    path = IMAGES / f"{name}.jpg"
    path.write_bytes(data.getvalue())
    print(f"{path}: {image.width}x{image.height}, {data.tell() / 1e3:.0f} kB")


def readme(demo: Path) -> None:
    """Cut the contact sheet."""
    sheet = Image.open(demo / "pictures" / "contact_sheet.png")
    width, height = sheet.width // COLUMNS, sheet.height // ROWS
    chosen = Image.new("RGB", (COLUMNS * width, len(SHOWN) // COLUMNS * height))
    for place, number in enumerate(SHOWN):
        left, top = number % COLUMNS * width, number // COLUMNS * height
        part = sheet.crop((left, top, left + width, top + height))
        chosen.paste(part, (place % COLUMNS * width, place // COLUMNS * height))
    save(chosen, "demo", SHEET_BYTES)


def report(demo: Path, browser: Browser) -> None:
    """Show the report."""
    for name, (section, scheme, width, height, ratio) in SHOTS.items():
        tab = browser.new_page(
            viewport={"width": width, "height": height},
            color_scheme=scheme,
            device_scale_factor=ratio,
        )
        tab.goto(f"{(demo / 'report.html').resolve().as_uri()}#{section}")
        save(Image.open(BytesIO(tab.screenshot())), name, SHOT_BYTES)


def serve(demo: Path, browser: Browser) -> None:
    """Serve the detector, and give it the first picture of the validation."""
    sources = json.loads((demo / "result.json").read_text())["detections"]
    picture = min(Path(sources["pictures"]).iterdir())
    command = [sys.executable, "-m", "mmconvnext", "serve", demo / "train", "--port", "0"]
    with subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, text=True) as process:
        try:
            lines = iter(process.stdout.readline, "")
            address = next(found[0] for line in lines if (found := re.search(r"http\S+", line)))
            tab = browser.new_page(viewport={"width": 1240, "height": 900})
            tab.goto(address)
            tab.set_input_files("#file", picture)
            tab.wait_for_selector("figure", timeout=300_000)  # milliseconds
            save(Image.open(BytesIO(tab.screenshot())), "serve", SHOT_BYTES)
        finally:
            process.kill()


def main(demo: Path) -> None:
    """Take all."""
    readme(demo)
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        report(demo, browser)
        serve(demo, browser)
        browser.close()


if __name__ == "__main__":
    main(Path(*sys.argv[1:] or ["demo"]))
