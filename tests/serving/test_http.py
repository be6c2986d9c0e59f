"""Connections of clients that are silent are closed, and no others."""

import socket
import time

import pytest

from tests.serving.conftest import objects, picture, serve, standing_in

app = pytest.importorskip("mmconvnext.serving.app", reason="pip install 'mmconvnext[serve]'")
http = pytest.importorskip("mmconvnext.serving.http")
ASK = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture
def asked(monkeypatch):
    """A service whose detector takes twice the time that a header may."""
    monkeypatch.setattr(http, "SECONDS", 0.5)

    def slow(path):
        time.sleep(1)
        return objects(path)

    with serve(app.create_app([standing_in(slow)]), http=http.PromptProtocol) as client:
        yield client


@pytest.mark.parametrize("sent", [b"", ASK[:20], ASK, ASK + ASK[:20]])
def test_who_sends_no_whole_header_is_left(asked, sent):
    with socket.create_connection(("127.0.0.1", asked.port), timeout=10) as silent:
        silent.sendall(sent)
        content = b""
        while more := silent.recv(2**16):
            content += more
    assert content.count(b'{"status":"ok"}') == (len(sent) >= len(ASK))


def drip(connection):
    for place in range(3000):
        connection.sendall(ASK[place % 10 : place % 10 + 1])
        time.sleep(0.02)


def test_drops_do_not_help(asked):
    with (
        socket.create_connection(("127.0.0.1", asked.port), timeout=10) as silent,
        pytest.raises(ConnectionError),
    ):
        drip(silent)


def test_who_waits_for_an_answer_gets_it(asked):
    assert asked(data=picture())[0] == 200
