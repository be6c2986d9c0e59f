"""The report in a browser: numbers, pictures, switches, accessibility."""

import json
import re

import pytest

from mmconvnext.report import write_report
from tests.report.conftest import HOSTILE

pytest.importorskip("hotcoco")
PICTURES = 9


@pytest.fixture(scope="module")
def page(result):
    return write_report(result, pictures=PICTURES)


@pytest.fixture(scope="module")
def data(page):
    block = r'<script type="application/json" id="report-data">(.*?)</script>'
    return json.loads(re.search(block, page.read_text(), re.DOTALL)[1])


def test_it_is_one_file_that_needs_no_network(page, result):
    text = page.read_text()
    assert page == result.with_name("report.html")
    assert not re.findall(r'(?:src|href)="(?!#|data:)', text)
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    assert len(text) < 5e6


def test_a_class_is_text_whatever_its_name(page, data):
    assert HOSTILE in data["classes"]
    assert HOSTILE not in page.read_text()


def test_pictures_carry_what_is_drawn(data):
    assert len(data["gallery"]) == PICTURES
    for picture in data["gallery"]:
        width, height = picture["size"]
        for shape in (*picture["truth"], *picture["found"]):
            x, y, w, h = shape["box"]
            assert -1 <= x <= x + w <= width + 1
            assert -1 <= y <= y + h <= height + 1
            assert all(len(points) >= 6 for points in shape["outlines"])
    errors = {shape["error"] for picture in data["gallery"] for shape in picture["found"]}
    assert {"", "wrong class", "background"} <= errors
    assert any(shape["missed"] for picture in data["gallery"] for shape in picture["truth"])


@pytest.fixture
def opened(open_page, page):
    return open_page(page)


def cells(tab, table):
    return [
        row.locator("th, td").all_inner_texts() for row in tab.locator(f"{table} tbody tr").all()
    ]


def test_the_tables_say_what_was_computed(opened, data):
    shown = {row[0]: row[1:] for row in cells(opened, "#ap table")}
    for kind, name in (("segm", "mask"), ("bbox", "box")):
        assert shown[name][0] == f"{100 * data['kinds'][kind]['ap']['mAP']:.1f}"
        opened.check(f"input[value={kind}]")
        numbers = data["kinds"][kind]
        assert [row[:3] for row in cells(opened, "#class-table")] == [
            [each["name"], str(each["objects"]), f"{100 * each['AP']:.1f}"]
            for each in sorted(numbers["classes"], key=lambda each: each["name"])
        ]
        errors = [row[1] for row in cells(opened, "#error-table")]
        assert errors == [str(each["count"]) for each in numbers["errors"]]


def test_classes_are_sorted_by_their_headings(opened):
    for _ in range(2):
        opened.click("#class-table thead th:nth-child(3) button")
    values = [float(row[2]) for row in cells(opened, "#class-table")]
    assert values == sorted(values)


def test_threshold_class_and_error_choose_what_is_drawn(opened, data):
    polygons = opened.locator("#gallery polygon")
    before = polygons.count()
    opened.fill("#score", "0.9")
    assert polygons.count() < before
    opened.uncheck("#found")
    outlines = [shape["outlines"] for p in data["gallery"] for shape in p["truth"]]
    assert polygons.count() == sum(map(len, outlines))
    opened.check("#found")
    opened.fill("#score", "0.05")
    opened.select_option("#error", "missed")
    missed = sum(any(shape["missed"] for shape in p["truth"]) for p in data["gallery"])
    assert opened.locator("figure").count() == missed
    assert opened.inner_text("#count") == f"{missed} of {PICTURES} pictures"


def test_a_cell_of_the_confusion_matrix_shows_its_pictures(opened):
    opened.click("#confusion-table tbody tr:last-child button >> nth=0")
    assert opened.input_value("#error") == "background"
    opened.click("#confusion-table tbody tr:first-child button >> nth=-1")
    assert opened.input_value("#error") == "missed"
    assert opened.input_value("#class") == "0"


def test_nothing_is_wider_than_a_phone_and_the_keyboard_reaches_it(opened):
    assert opened.evaluate("document.documentElement.scrollWidth") == 390
    opened.keyboard.press("Tab")
    assert opened.evaluate("document.activeElement.className") == "skip"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation(opened, scheme, violations):
    assert violations(opened, scheme) == []
