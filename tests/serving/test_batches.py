"""Requests that wait together are predicted on together; what the service says about itself."""

import threading
import time

import pytest

from mmconvnext.errors import DataError
from mmconvnext.serving import Limits, Served
from tests.serving.conftest import CLASSES, PALETTE, Client, objects, picture, serve, standing_in

app = pytest.importorskip("mmconvnext.serving.app", reason="pip install 'mmconvnext[serve]'")
parser = pytest.importorskip("prometheus_client.parser", reason="pip install 'mmconvnext[serve]'")


class Batches:
    """A detector whose first batch waits for ``open``; fails where a picture is 13 pixels high."""

    def __init__(self):
        self.sizes, self.begun, self.open = [], threading.Event(), threading.Event()

    def __call__(self, paths):
        self.begun.set()
        assert self.open.wait(60)
        found = [objects(path) for path in paths]
        self.sizes.append([each[0]["segmentation"]["size"][::-1] for each in found])
        if any(size[1] == 13 for size in self.sizes[-1]):
            raise DataError("13 is bad")
        return found

    def served(self):
        return Served("batches", lambda path: self([path])[0], CLASSES, PALETTE, self)


def metrics(client):
    """All samples by name and labels."""
    status, text = client("/metrics")
    assert status == 200
    families = parser.text_string_to_metric_families(text)
    return {
        "/".join([sample.name, *sample.labels.values()]): sample.value
        for family in families
        for sample in family.samples
    }


def ask_together(client, batches, sizes):
    """Answers for pictures of some sizes: all but the first wait, in this order."""
    answers = [None] * len(sizes)

    def ask(number):
        answers[number] = Client(client.port)(data=picture(*sizes[number]))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(sizes))]
    for number, thread in enumerate(threads):
        thread.start()
        batches.begun.wait()
        while metrics(client)["mmconvnext_waiting_pictures"] < number:
            time.sleep(0.01)
    batches.open.set()
    for thread in threads:
        thread.join()
    return answers


def test_those_of_one_size_go_together_the_oldest_first():
    batches, small, large = Batches(), (40, 30), (50, 30)
    sizes = [small, large, small, large, small, large, large, small]
    with serve(app.create_app([batches.served()], Limits(batch=3))) as client:
        answers = ask_together(client, batches, sizes)
        numbers = metrics(client)
    expected = [[small], [large] * 3, [small] * 3, [large]]
    assert batches.sizes == [[[*size] for size in batch] for batch in expected]
    for (status, content), (width, _) in zip(answers, sizes, strict=True):
        (result,) = content["results"]
        assert (status, result["coco"]["images"][0]["width"]) == (200, width)
        assert len(result["coco"]["annotations"]) == len(result["outlines"]) == 3
    assert numbers["mmconvnext_requests_total/200"] == 8
    assert numbers["mmconvnext_batch_pictures_sum"] == 8
    assert numbers["mmconvnext_batch_pictures_bucket/1.0"] == 2
    assert numbers["mmconvnext_batch_seconds_count"] == 4
    assert numbers["mmconvnext_request_seconds_count"] == 8
    assert numbers["mmconvnext_waiting_pictures"] == numbers["mmconvnext_present_requests"] == 0
    assert numbers["process_resident_memory_bytes"] > 2**20


def test_by_default_one_after_the_other():
    batches = Batches()
    with serve(app.create_app([batches.served()])) as client:
        ask_together(client, batches, [(40, 30)] * 3)
    assert batches.sizes == [[[40, 30]]] * 3


def test_a_picture_that_fails_does_not_take_others_with_it(caplog):
    batches = Batches()
    sizes = [(20, 20), (30, 13), (30, 13)]
    with serve(app.create_app([batches.served()], Limits(batch=4))) as client:
        answers = ask_together(client, batches, sizes)
        cut = Client(client.port)(data=picture(kind="JPEG")[:-9])
        numbers = metrics(client)
    assert [status for status, _ in [*answers, cut]] == [200, 422, 422, 422]
    assert [len(batch) for batch in batches.sizes] == [1, 2, 1, 1]
    assert caplog.text.count("13 is bad") >= 2
    assert numbers["mmconvnext_requests_total/422"] == 3


def test_alone_a_good_picture_of_a_failed_batch_is_answered():
    def find(paths):
        if len(paths) > 1:
            raise MemoryError
        return [objects(path) for path in paths]

    batches = Batches()
    first = lambda paths: batches(paths) if not batches.open.is_set() else find(paths)  # noqa: E731
    served = Served("a", objects, CLASSES, PALETTE, first)
    with serve(app.create_app([served], Limits(batch=4))) as client:
        answers = ask_together(client, batches, [(40, 30)] * 4)
    assert [status for status, _ in answers] == [200] * 4


def test_a_full_disk_is_an_answer(monkeypatch, caplog):
    def fail():
        raise OSError(28, "No space left on device")

    with serve(app.create_app([standing_in()])) as client:
        with monkeypatch.context() as patch:
            patch.setattr(app, "TemporaryDirectory", fail)
            status, content = client(data=picture())
        assert (status, [*content]) == (500, ["error"])
        assert client(data=picture())[0] == 200
        assert metrics(client)["mmconvnext_requests_total/500"] == 1
    assert "No space left" in caplog.text


def test_two_detectors_see_the_same_batch():
    batches, other = Batches(), standing_in(name="other")
    with serve(app.create_app([batches.served(), other], Limits(batch=2))) as client:
        answers = ask_together(client, batches, [(40, 30), (50, 30), (50, 30)])
    for _, content in answers:
        first, second = content["results"]
        assert (first["name"], second["name"]) == ("batches", "other")
        assert first["coco"] == second["coco"]


def test_it_is_ready_while_it_answers_in_time_and_alive_while_it_does_not_hang():
    batches = Batches()
    limits = Limits(seconds=1, clients=2)
    with serve(app.create_app([batches.served()], limits)) as client:
        assert client("/health") == client("/ready") == (200, {"status": "ok"})
        asked = threading.Thread(target=Client(client.port), kwargs={"data": picture()})
        asked.start()
        batches.begun.wait()
        assert client("/ready")[0] == 200
        asked.join()  # after a second
        time.sleep(0.1)
        assert client("/ready") == (503, {"status": "busy"})
        assert client("/health")[0] == 200
        time.sleep(1.2)
        assert client("/health") == (503, {"status": "hangs"})
        batches.open.set()
        while client("/ready")[0] == 503:
            time.sleep(0.01)
        assert client("/health")[0] == 200
        assert metrics(client)["mmconvnext_requests_total/504"] == 1


def test_it_is_not_ready_where_a_request_would_be_refused():
    batches = Batches()
    with serve(app.create_app([batches.served()], Limits(clients=1))) as client:
        asked = threading.Thread(target=Client(client.port), kwargs={"data": picture()})
        asked.start()
        batches.begun.wait()
        assert client("/ready") == (503, {"status": "busy"})
        assert client(data=picture())[0] == 503
        batches.open.set()
        asked.join()
        assert metrics(client)["mmconvnext_requests_total/503"] == 1


def test_names_that_are_allowed():
    with serve(app.create_app([standing_in()], hosts=("localhost", "detector"))) as client:
        assert client("/health", Host="detector:8000")[0] == 200
        assert client("/health", Host="other:8000")[0] == 403
