"""The service: what it answers, what it refuses, and that nothing brings it down."""

import socket
import struct
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor, as_completed
from io import BytesIO
from itertools import islice

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from mmconvnext.errors import DataError
from mmconvnext.serving import Limits
from tests.serving.conftest import CLASSES, Client, objects, picture, serve, standing_in

app = pytest.importorskip("mmconvnext.serving.app", reason="pip install 'mmconvnext[serve]'")
PICTURE = picture()


@pytest.fixture(scope="module")
def client():
    with serve(app.create_app([standing_in()])) as asked:
        yield asked


@pytest.fixture(autouse=True)
def _nothing_of_this_machine_is_told(monkeypatch):
    """Every answer of every test: no path, no traceback, and the headers."""
    call = Client.__call__

    def checked(self, *args, **headers):
        status, content = call(self, *args, **headers)
        assert not any(word in str(content) for word in ("/tmp", "/home", "Traceback", ".py"))
        assert self.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in self.headers["content-security-policy"]
        assert not any(
            name.startswith("access-control") or name == "server" for name in self.headers
        )
        return status, content

    monkeypatch.setattr(Client, "__call__", checked)


def test_objects_come_as_a_coco_file_with_outlines(client, tmp_path):
    (tmp_path / "a.png").write_bytes(PICTURE)
    status, content = client("/predict?name=a.png", PICTURE)
    (result,) = content["results"]
    assert (status, result["name"]) == (200, "stand-in")
    assert result["coco"] == {
        "images": [{"id": 1, "file_name": "a.png", "width": 96, "height": 64}],
        "categories": [{"id": 1, "name": CLASSES[0]}, {"id": 2, "name": CLASSES[1]}],
        "annotations": objects(tmp_path / "a.png"),
    }
    for entry, (points,) in zip(result["coco"]["annotations"], result["outlines"], strict=True):
        again = coco_mask.merge(coco_mask.frPyObjects([points], 64, 96))
        assert coco_mask.iou([entry["segmentation"]], [again], [0]) > 0.97


def test_objects_without_masks_and_masks_without_pixels():
    empty = {
        "size": [64, 96],
        "counts": coco_mask.encode(np.zeros((64, 96), "u1", "F"))["counts"].decode(),
    }
    found = [{"id": 1, "image_id": 1, "category_id": 1, "score": 0.5, "bbox": [1, 2, 3, 4]}]
    found.append({**found[0], "id": 2, "segmentation": empty})
    with serve(app.create_app([standing_in(lambda path: found)])) as client:
        (result,) = client(data=PICTURE)[1]["results"]
    assert result["outlines"] == [[], []]
    assert result["coco"]["annotations"] == found


@pytest.mark.parametrize(
    ("given", "name"),
    [("..%2F..%2Fetc%2Fpasswd", "passwd"), ("C%3A%5Cmine%5Cb.jpg", "b.jpg"), ("", "picture")],
)
def test_a_name_is_no_path(client, given, name):
    (result,) = client(f"/predict?name={given}", PICTURE)[1]["results"]
    assert result["coco"]["images"][0]["file_name"] == name


def bomb(width, height):
    """A PNG of some bytes that says that it has this many pixels."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


BAD = {
    "empty": (b"", 415, "no whole picture"),
    "text": (b"<script>alert(1)</script>", 415, "JPEG, PNG, WEBP, BMP"),
    "another format": (picture(kind="GIF"), 415, "no whole picture"),
    "cut off": (picture(kind="JPEG")[:-50], 422, "is cut off"),
    "a header alone": (PICTURE[:60], 422, "cannot be read"),
    "nothing in it": (bomb(50, 50), 422, "cannot be read"),
    "large": (picture(2000, 1001), 413, "more than 2,000,000 pixels"),
    "bomb": (bomb(10_000, 10_000), 413, "more than 2,000,000 pixels"),
    "larger than Pillow takes": (bomb(60_000, 60_000), 413, "more than 2,000,000 pixels"),
    "many bytes": (bytes(70_000), 413, "more than 0.0625 MiB"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_files_are_refused_with_a_reason(kind):
    data, code, says = BAD[kind]
    limits = Limits(bytes=2**16, pixels=2_000_000)
    seen = []
    with serve(
        app.create_app([standing_in(lambda path: seen.append(path) or [])], limits)
    ) as client:
        status, content = client(data=data)
        assert (status, list(content)) == (code, ["error"])
        assert says in content["error"]
        assert not seen
        assert client(data=PICTURE)[0] == 200  # it goes on


def test_bytes_that_are_not_announced_are_counted():
    with serve(app.create_app([standing_in()], Limits(bytes=2**16))) as client:
        status, content = client(data=iter([bytes(2**15)] * 4))
    assert (status, content["error"]) == (413, "The file has more than 0.0625 MiB.")


@pytest.mark.parametrize(("error", "code"), [(RuntimeError, 500), (DataError, 422)])
def test_a_detector_that_fails_says_so_in_the_log_alone(caplog, error, code):
    def fail(path):
        raise error(f"Error: Traceback of {path}")

    with serve(app.create_app([standing_in(fail)])) as client:
        for _ in range(2):
            status, content = client(data=PICTURE)
            assert status == code
            assert "the log of the service says why" in content["error"]
    assert "Traceback of /" in caplog.text


@pytest.mark.parametrize(
    ("path", "data", "code"),
    [("/predict", None, 405), ("/page.py", None, 404), ("/../app.py", None, 404), ("/", b"", 405)],
)
def test_nothing_else_is_there(client, path, data, code):
    assert client(path, data)[0] == code


def test_the_page_and_health_are_there(client):
    assert client("/health") == (200, {"status": "ok"})
    for path in ("/page.css", "/page.js"):
        assert client(path)[0] == 200
    status, page = client("/")
    assert (status, page.count("<script")) == (200, 2)
    assert "stand-in" in page
    assert "http" not in page


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Host": "localhost:8000"}, 200),
        ({"Host": "192.168.1.9:8000"}, 200),
        ({"Host": "[::1]:8000", "Origin": "http://[::1]:8000"}, 200),
        ({"Host": "evil.example:8000"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "[localhost"}, 403),
        ({"Host": ""}, 403),
        ({"Host": "localhost:8000", "Origin": "http://evil.example"}, 403),
        ({"Host": "localhost:8000", "Origin": "http://localhost:9000"}, 403),
        ({"Host": "localhost:8000", "Origin": "null"}, 403),
    ],
)
def test_other_sites_are_refused(client, headers, code):
    assert client(data=PICTURE, **headers)[0] == code
    assert client("/", **headers)[0] == code


class Gate:
    """A detector that waits for ``open``, and counts its pictures: at once, and in all."""

    def __init__(self, is_open):
        self.now, self.most, self.all = 0, 0, 0
        self.begun, self.open = threading.Event(), threading.Event()
        if is_open:
            self.open.set()

    def __call__(self, path):
        self.now, self.all = self.now + 1, self.all + 1
        self.most = max(self.most, self.now)
        self.begun.set()
        assert self.open.wait(60)
        time.sleep(0.01)
        self.now -= 1
        return objects(path)


def ask(client, index):
    """Status, width of the picture and headers of the answer to one of many clients."""
    asked = Client(client.port)
    status, content = asked(data=picture(90 + index))
    width = status == 200 and content["results"][0]["coco"]["images"][0]["width"]
    return status, width, content.get("error"), asked.headers


def test_twenty_clients_at_once_are_answered_one_after_the_other():
    gate = Gate(is_open=True)
    with serve(app.create_app([standing_in(gate)])) as client, ThreadPoolExecutor(20) as pool:
        found = list(pool.map(ask, [client] * 20, range(20)))
    assert [each[:2] for each in found] == [(200, 90 + index) for index in range(20)]
    assert (gate.most, gate.all) == (1, 20)


def test_more_clients_than_may_wait_are_told_so():
    gate, limits = Gate(is_open=False), Limits(clients=4)
    with (
        serve(app.create_app([standing_in(gate)], limits)) as client,
        ThreadPoolExecutor(20) as pool,
    ):
        asked = as_completed([pool.submit(ask, client, index) for index in range(20)])
        for done in islice(asked, 16):
            status, _, error, headers = done.result()
            assert (status, headers["retry-after"]) == (503, "5")
            assert error == "4 others are waiting: try again in a few seconds."
        assert client("/health")[0] == 200
        gate.open.set()
        assert [done.result()[0] for done in asked] == [200] * 4
        assert client(data=PICTURE)[0] == 200
    assert (gate.most, gate.all) == (1, 5)


def test_time_is_up_for_a_prediction_and_the_next_one_waits_for_it():
    gate = Gate(is_open=False)
    with serve(app.create_app([standing_in(gate)], Limits(seconds=1))) as client:
        status, content = client(data=PICTURE)
        text = "There was no answer within 1 seconds: try again later."
        assert (status, content["error"]) == (504, text)
        threading.Timer(0.1, gate.open.set).start()
        assert client(data=PICTURE)[0] == 200
    assert (gate.most, gate.all) == (1, 2)


def test_time_is_up_for_who_sends_nothing():
    with (
        serve(app.create_app([standing_in()], Limits(seconds=1, clients=1))) as client,
        socket.create_connection(("127.0.0.1", client.port)) as silent,
    ):
        silent.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n1")
        time.sleep(0.1)
        assert client(data=PICTURE)[0] == 503
        assert b" 504 " in silent.recv(2**16).splitlines()[0]
        assert client(data=PICTURE)[0] == 200


def test_who_has_gone_is_not_predicted_for():
    gate = Gate(is_open=False)
    with serve(app.create_app([standing_in(gate)])) as client:
        first = threading.Thread(target=client, kwargs={"data": PICTURE})
        first.start()
        gate.begun.wait()
        head = (
            f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(PICTURE)}\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", client.port)) as gone:
            gone.sendall(head.encode() + PICTURE)
            time.sleep(0.1)
        time.sleep(0.1)
        gate.open.set()
        first.join()
        assert client(data=PICTURE)[0] == 200
        assert 'mmconvnext_requests_total{status="499"} 1.0' in client("/metrics")[1]
    assert gate.all == 2


def test_turned_and_gray_pictures_have_the_size_that_a_browser_shows(client):
    image = Image.open(BytesIO(PICTURE)).convert("L")
    exif = image.getexif()
    exif[0x0112] = 6
    data = BytesIO()
    image.save(data, "JPEG", exif=exif)
    (result,) = client(data=data.getvalue())[1]["results"]
    assert result["coco"]["images"][0]["width"] == 64
    assert result["coco"]["images"][0]["height"] == 96


def test_it_needs_no_torch(run_python):
    code = (
        "import sys, mmconvnext.serving.app; print({'torch', 'mmengine', 'mmdet'} & {*sys.modules})"
    )
    assert run_python(code) == "set()\n"
