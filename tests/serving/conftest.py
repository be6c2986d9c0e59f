"""A real server on the loopback, with whatever detector."""

import http.client
import json
import threading
from contextlib import contextmanager
from io import BytesIO

import numpy as np
from PIL import Image

from mmconvnext.data.masks import run_lengths
from mmconvnext.serving import Served

CLASSES = ("disk", "</script><b>cross")
PALETTE = ((255, 0, 0), (0, 128, 0))


def objects(path):
    """Objects of falling score, as a detector finds them on a picture of any size."""
    with Image.open(path) as image:
        width, height = image.size
    found = []
    for index, score in enumerate((0.9, 0.5, 0.2)):
        mask = np.zeros((height, width), np.uint8)
        left, top = width // 8 + 2 * index, height // 8 + index
        mask[top : top + height // 2, left : left + width // 3] = 1
        entry = {"id": index + 1, "image_id": 1, "category_id": index % 2 + 1, "score": score}
        box = [left, top, width // 3, height // 2]
        found.append({**entry, "bbox": box, "segmentation": run_lengths(mask)})
    return found


def standing_in(predict=objects, name="stand-in"):
    return Served(name, predict, CLASSES, PALETTE)


def picture(width=96, height=64, kind="PNG"):
    data = BytesIO()
    Image.linear_gradient("L").resize((width, height)).convert("RGB").save(data, kind)
    return data.getvalue()


class Client:
    """Asks a server: ``status, content`` of an answer, whose headers are kept."""

    def __init__(self, port):
        self.port, self.headers = port, {}

    def __call__(self, path="/predict", data=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        method = "GET" if data is None else "POST"
        connection.request(method, path, data, headers)
        answer = connection.getresponse()
        self.headers = dict(answer.getheaders())
        content = answer.read()
        connection.close()
        is_json = self.headers.get("content-type") == "application/json"
        return answer.status, json.loads(content) if is_json else content.decode()


@contextmanager
def serve(app, **settings):
    """Serve an application in a thread, for a client of it; ``settings`` are uvicorn's."""
    import uvicorn

    server = uvicorn.Server(
        # a log_config closes the files of all other loggers
        uvicorn.Config(
            app, port=0, log_config=None, lifespan="off", server_header=False, **settings
        )
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        threading.Event().wait(0.01)
    try:
        yield Client(server.servers[0].sockets[0].getsockname()[1])
    finally:
        server.should_exit = True
        thread.join()
