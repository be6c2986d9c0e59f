"""The service as an ASGI application: what it takes, what it answers, what it refuses."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import ChainMap
from collections.abc import Mapping, Sequence
from io import BytesIO
from ipaddress import ip_address
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
from PIL import Image
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mmconvnext.data.masks import polygons
from mmconvnext.data.pictures import read_picture
from mmconvnext.errors import UserError
from mmconvnext.serving import Limits, Served
from mmconvnext.serving.metrics import Metrics
from mmconvnext.serving.queue import Queue

FORMATS = ("JPEG", "PNG", "WEBP", "BMP")  # those that browsers show, too
HANGS = 2  # times the seconds of a request: a batch that takes longer is never done
FINE = 2000  # steps of an outline to the longer side of a picture
OWN, SHARED = Path(__file__).parent / "page", Path(__file__).parents[1] / "report" / "template"
FILES = {
    "/": ("text/html", (OWN / "page.html",)),
    "/page.css": ("text/css", (SHARED / "report.css", OWN / "page.css")),
    "/page.js": ("text/javascript", (SHARED / "common.js", OWN / "page.js")),
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def create_app(
    served: Sequence[Served], limits: Limits | None = None, hosts: Sequence[str] = ("localhost",)
) -> ASGIApp:
    """Make the service: ``/``, ``/predict`` (POST of a picture's bytes), ``/health``, ``/ready``
    and ``/metrics``.

    Args:
        served: detectors, each of which predicts on every picture.
        limits: of what is taken.
        hosts: names that it is asked by, beside IP addresses.
    """
    service = Service(served, limits or Limits())
    colors: dict[str, str] = {}
    for each in served:
        for name, color in zip(each.classes, each.palette, strict=True):
            colors.setdefault(name, f"rgb{tuple(color)}")
    data = {"classes": [*colors], "colors": [*colors.values()], "limits": service.limits._asdict()}
    text = json.dumps({**data, "names": [each.name for each in served]})
    text = text.replace("<", "\\u003c")  # a name may be </script>
    routes = [Route(path, _file(kind, paths, text)) for path, (kind, paths) in FILES.items()]
    routes += [Route("/predict", service.predict, methods=["POST"])]
    routes += [Route("/health", service.health), Route("/ready", service.ready)]
    routes += [Route("/metrics", lambda request: service.metrics.response())]

    def refuse(request: Request, error: HTTPException) -> Response:
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)

    return guard(Starlette(routes=routes, exception_handlers={HTTPException: refuse}), hosts)


def _file(kind: str, paths: Sequence[Path], data: str) -> Any:
    content = "".join(path.read_text("utf-8") for path in paths).replace("{{ data }}", data)
    return lambda request: Response(content, media_type=kind)


def guard(app: ASGIApp, hosts: Sequence[str]) -> ASGIApp:
    """Refuse what pages of other sites ask for, and say what those of this one may do.

    A page that has its name point at this machine (DNS rebinding) has that name in ``Host``; one
    that asks for what it may not read has it in ``Origin``.
    """

    def is_own(host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
            return name in hosts or bool(ip_address(name))
        except ValueError:
            return False

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        headers = Headers(raw=scope.get("headers", []))
        host = headers.get("host", "")
        is_other = not is_own(host) or headers.get("origin", host).rpartition("//")[2] != host
        text = "Only the service's own page may ask: by localhost, or an IP address."
        is_refused = scope["type"] == "http" and is_other
        answer = JSONResponse({"error": text}, 403) if is_refused else app
        await answer(scope, receive, send_guarded)

    return guarded


class Picture(NamedTuple):
    """A picture that waits: what a file has, and the name that it is given."""

    data: bytes
    name: str


class Service:
    """Predicts on one batch after the other; ``present`` requests wait or are answered."""

    def __init__(self, served: Sequence[Served], limits: Limits):
        self.served, self.limits, self.present = served, limits, 0
        self.queue = Queue(self._work, limits.batch)
        self.metrics = Metrics(lambda: len(self.queue.waiting), lambda: self.present)

    async def predict(self, request: Request) -> Response:
        """Answer with the objects on a picture, or with why there are none."""
        start, status = time.perf_counter(), 500
        busy = self.present >= self.limits.clients
        self.present += not busy
        try:
            response = await asyncio.wait_for(self._answer(request, busy), self.limits.seconds)
            status = response.status_code
            return response
        except asyncio.TimeoutError:
            status = 504
            text = f"There was no answer within {self.limits.seconds} seconds: try again later."
            raise HTTPException(status, text) from None
        except HTTPException as error:
            status = error.status_code
            raise
        except ClientDisconnect:
            status = 499
            return Response(status_code=status)
        finally:
            self.present -= not busy
            self.metrics.requests.labels(status).inc()
            self.metrics.request_seconds.observe(time.perf_counter() - start)

    async def _answer(self, request: Request, busy: bool) -> Response:
        # what is refused is read, too: a browser that still sends would not see the answer
        data = await read_body(request, self.limits.bytes, keep=not busy)
        if busy:
            text = f"{self.limits.clients} others are waiting: try again in a few seconds."
            raise HTTPException(503, text, {"Retry-After": "5"})
        size = check_header(data, self.limits.pixels)
        name = request.query_params.get("name", "").replace("\\", "/")
        name = PurePosixPath(name).name[:200] or "picture"
        gone = asyncio.create_task(disconnection(request))
        answer = self.queue.put(Picture(data, name), size)
        try:
            await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise ClientDisconnect
            return JSONResponse(answer.result())
        finally:  # time may be up
            answer.cancel()
            gone.cancel()

    async def health(self, request: Request) -> Response:
        """Whether the process is alive: 503 where a batch takes so long that it must hang."""
        hangs = self.queue.seconds() > HANGS * self.limits.seconds
        return JSONResponse({"status": "hangs" if hangs else "ok"}, 503 if hangs else 200)

    async def ready(self, request: Request) -> Response:
        """Whether a picture would be taken and answered in time, as it seems."""
        is_late = self.queue.seconds() > self.limits.seconds
        busy = is_late or self.present >= self.limits.clients
        return JSONResponse({"status": "busy" if busy else "ok"}, 503 if busy else 200)

    def _work(self, pictures: Sequence[Picture]) -> list[Any]:
        """The answer, or what is wrong, for each of some pictures of one size."""
        self.metrics.batch_pictures.observe(len(pictures))
        try:
            with self.metrics.batch_seconds.time(), TemporaryDirectory() as folder:
                return self._look(pictures, folder)
        except Exception as error:  # a full disk
            return [failure(error, "pictures")] * len(pictures)

    def _look(self, pictures: Sequence[Picture], folder: str) -> list[Any]:
        answers, images = {}, {}
        for number, (data, name) in enumerate(pictures):
            path = Path(folder, str(number))
            path.write_bytes(data)
            picture = read_picture(path)
            if picture.fault:
                fault = picture.fault.replace(str(path), name)
                answers[path] = HTTPException(422, f"The picture {fault}.")
                continue
            size = dict(zip(("width", "height"), picture.loaded, strict=True))
            images[path] = {"id": 1, "file_name": name, **size}
        answers |= self._results(images)
        return [answers[Path(folder, str(number))] for number in range(len(pictures))]

    def _results(self, images: Mapping[Path, dict[str, Any]]) -> dict[Path, Any]:
        paths = [str(path) for path in images]
        try:
            found = [results_of(each, paths, [*images.values()]) for each in self.served]
            results = zip(*found, strict=True) if images else ()
            return {p: {"results": [*r]} for p, r in zip(images, results, strict=True)}
        except Exception as error:
            if len(images) > 1:  # the others can do nothing for it
                one_by_one = ({path: image} for path, image in images.items())
                return dict(ChainMap(*map(self._results, one_by_one)))
            ((path, image),) = images.items()
            return {path: failure(error, image["file_name"])}


def failure(error: Exception, name: str) -> HTTPException:
    """What a client is told of an error; the rest is for the log."""
    logging.getLogger(__name__).error("no prediction on %r", name, exc_info=error)
    text = "The detector failed on this picture; the log of the service says why."
    return HTTPException(422 if isinstance(error, UserError) else 500, text)


async def disconnection(request: Request) -> None:
    """Wait until the client of a request, which has been read, has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def read_body(request: Request, limit: int, keep: bool) -> bytes:
    """Read what a request sends, and maybe throw it away."""
    data, size = bytearray(), int(request.headers.get("content-length", 0))
    if size <= limit:
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
            data += chunk if keep else b""
            if size > limit:
                break
    if size > limit:
        raise HTTPException(413, f"The file has more than {limit / 2**20:.4g} MiB.")
    return bytes(data)


def check_header(data: bytes, most: int) -> tuple[int, int]:
    """The size of a picture by its header; what is none, or has more pixels, is refused.

    Nothing is decoded, and nothing turned as EXIF says.
    """
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            size = image.size
    except Image.DecompressionBombError:
        size = most, 2
    except Exception:  # whatever a library makes of bytes that are anything
        text = f"The file is no whole picture of a known format ({', '.join(FORMATS)})."
        raise HTTPException(415, text) from None
    if size[0] * size[1] > most:
        raise HTTPException(413, f"The picture has more than {most:,} pixels.")
    return size


def results_of(
    served: Served, paths: Sequence[str], images: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """A detector's objects on pictures of one size: as COCO files, and the masks' outlines."""
    start = time.perf_counter()
    found = served.find(paths) if paths else []
    seconds = time.perf_counter() - start
    categories = [{"id": index, "name": name} for index, name in enumerate(served.classes, 1)]
    results = []
    for image, objects in zip(images, found, strict=True):
        tolerance = max(image["width"], image["height"]) / FINE
        parts = [
            polygons(code, tolerance) if (code := o.get("segmentation")) else [] for o in objects
        ]
        outlines = [[np.round(p, 1).ravel().tolist() for p in each] for each in parts]
        coco = {"images": [image], "categories": categories, "annotations": objects}
        results.append(
            {"name": served.name, "seconds": seconds, "coco": coco, "outlines": outlines}
        )
    return results
