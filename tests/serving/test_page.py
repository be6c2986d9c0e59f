"""The page in a browser: pictures in by three ways, threshold, downloads, accessibility."""

import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmconvnext.serving import Limits
from tests.serving.conftest import objects, picture, serve, standing_in

sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
app = pytest.importorskip("mmconvnext.serving.app", reason="pip install 'mmconvnext[serve]'")
GIVE = """([bytes, name, type]) => {
  const transfer = new DataTransfer();
  transfer.items.add(new File([new Uint8Array(bytes)], name, { type: "image/png" }));
  const init = { bubbles: true, dataTransfer: transfer, clipboardData: transfer };
  const Kind = type === "drop" ? DragEvent : ClipboardEvent;
  document.dispatchEvent(new Kind(type, init));
}"""


def fewer(path):
    return objects(path)[:1]


@pytest.fixture(scope="module")
def client():
    served = [standing_in(), standing_in(fewer, "other")]
    with serve(app.create_app(served, Limits(bytes=100_000))) as asked:
        yield asked


@pytest.fixture
def opened(browser, client):
    tab = browser.new_page(viewport={"width": 390, "height": 844})
    faults = []
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.on("console", lambda line: faults.append(line.text) if line.type == "error" else None)
    tab.asked = []
    tab.on("request", lambda request: tab.asked.append(request.url))
    tab.goto(f"http://127.0.0.1:{client.port}/")
    yield tab
    tab.close()
    own = (f"http://127.0.0.1:{client.port}/", "blob:", "data:")
    assert [url for url in tab.asked if not url.startswith(own)] == []
    assert [text for text in faults if "status of 4" not in text] == []


def give(tab, data=None, name="a.png", way="choose"):
    data = picture(300, 200) if data is None else data
    if way == "choose":
        tab.set_input_files("#file", {"name": name, "mimeType": "image/png", "buffer": data})
    else:
        tab.evaluate(GIVE, [list(data), name, way])
    sync_api.expect(tab.locator("#status")).not_to_contain_text("Looking")


@pytest.mark.parametrize("way", ["choose", "drop", "paste"])
def test_a_picture_is_dropped_pasted_or_chosen(opened, way):
    give(opened, name="<b>.png", way=way)
    assert opened.inner_text("#status") == (
        "<b>.png, 300\u00d7200 pixels. Objects of any score: stand-in 3, other 1."
    )
    assert opened.locator("figure").count() == 2
    assert opened.evaluate("document.documentElement.scrollWidth") == 390  # no wider than a phone
    captions = opened.locator("figcaption").all_inner_texts()
    assert captions[0].startswith("stand-in: 1 disk, 1 </script><b>cross, in 0.")
    assert captions[1].startswith("other: 1 disk, in 0.")


def test_threshold_and_shapes_are_changed_without_a_request(opened):
    give(opened)
    asked = len(opened.asked)
    shapes = opened.locator("figure >> nth=0").locator("polygon, rect")
    counts = {}
    for score in ("0", "0.3", "0.91"):
        opened.fill("#score", score)
        counts[score] = shapes.count()
    assert counts == {"0": 3, "0.3": 2, "0.91": 0}
    assert "no objects" in opened.inner_text("figcaption >> nth=0")
    opened.fill("#score", "0")
    for kinds, names in (("boxes", ["rect"] * 3), ("masks and boxes", ["rect", "polygon"] * 3)):
        opened.select_option("#shapes", kinds)
        assert shapes.evaluate_all("all => all.map((each) => each.tagName)") == names
    assert len(opened.asked) == asked


def test_the_overlay_lies_over_the_picture(opened):
    give(opened)
    image, overlay = (
        opened.locator(f".stack {name} >> nth=0").bounding_box() for name in ("img", "svg")
    )
    assert image == pytest.approx(overlay, abs=1)
    box = opened.locator("polygon >> nth=-1").evaluate(
        "(shape) => ({ x: shape.getBBox().x, width: shape.getBBox().width })"
    )
    scale = image["width"] / 300
    assert box["x"] == pytest.approx(300 // 8 * scale, abs=2)
    assert box["width"] == pytest.approx(100 * scale, abs=4)


def test_a_name_is_within_the_picture_where_its_object_is_at_the_edge(browser):
    def at_the_edge(path):
        return [{**objects(path)[1], "bbox": [290, 100, 9, 20], "segmentation": None}]

    with serve(app.create_app([standing_in(at_the_edge)])) as client:
        tab = browser.new_page()
        tab.goto(f"http://localhost:{client.port}/")
        give(tab)
        name, picture_ = (tab.locator(f".stack {what}").bounding_box() for what in ("text", "img"))
    assert name["width"] > 100
    assert name["x"] >= picture_["x"]
    assert name["x"] + name["width"] <= picture_["x"] + picture_["width"]
    tab.close()


def test_a_turned_picture_is_shown_as_it_was_predicted_on(opened):
    image, data = Image.open(BytesIO(picture(300, 200))), BytesIO()
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(data, "JPEG", exif=exif)
    give(opened, data.getvalue(), "a.jpg")
    assert "a.jpg, 200\u00d7300 pixels" in opened.inner_text("#status")
    shown = opened.locator("img >> nth=0")
    assert shown.evaluate("(image) => [image.naturalWidth, image.naturalHeight]") == [200, 300]


def download(tab, text):
    with tab.expect_download() as found:
        tab.click(f"button:has-text('{text}') >> nth=0")
    return found.value.suggested_filename, Path(found.value.path()).read_bytes()


def test_json_and_picture_are_downloaded_as_they_are_shown(opened, tmp_path):
    data = picture(300, 200)
    give(opened, data)
    opened.fill("#score", "0.5")
    name, content = download(opened, "Download JSON")
    coco = json.loads(content)
    (tmp_path / "a.png").write_bytes(data)
    assert name == "a_stand-in.json"
    assert coco["annotations"] == objects(tmp_path / "a.png")[:2]
    assert coco["images"][0]["file_name"] == "a.png"
    name, content = download(opened, "Download picture")
    drawn, plain = (
        np.asarray(Image.open(BytesIO(each)).convert("RGB"), int) for each in (content, data)
    )
    assert (name, drawn.shape) == ("a_stand-in.jpg", (200, 300, 3))
    differs = np.abs(drawn - plain).max(axis=2) > 30
    assert differs[30:120, 40:130].mean() > 0.9
    assert differs[140:, 160:].mean() < 0.01


def test_what_is_refused_is_said(opened):
    give(opened, b"text", "a.txt")
    assert opened.inner_text("#fault").startswith("a.txt: The file is no whole picture of a known")
    asked = len(opened.asked)
    give(opened, bytes(100_001), "b.png")
    assert opened.inner_text("#fault") == "b.png has more than 0.09537 MiB."
    assert len(opened.asked) == asked
    give(opened)
    assert opened.inner_text("#fault") == ""


def test_a_service_that_has_gone_is_named(browser):
    with serve(app.create_app([standing_in()])) as client:
        tab = browser.new_page()
        tab.goto(f"http://localhost:{client.port}/")
        assert tab.title() == "stand-in"
    give(tab)
    assert tab.inner_text("#fault") == "The service does not answer. Is it still running?"
    tab.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation(opened, scheme, violations):
    give(opened)
    assert violations(opened, scheme) == []
