"""The service as an ASGI application: what it takes, what it answers, what it refuses."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from ipaddress import ip_address
from pathlib import Path, PurePosixPath
from tempfile import NamedTemporaryFile
from typing import Any
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

FORMATS = ("JPEG", "PNG", "WEBP", "BMP")  # those that browsers show, too
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
    """Make the service: ``/``, ``/predict`` (POST of a picture's bytes) and ``/health``.

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
    routes += [Route("/health", lambda request: JSONResponse({"status": "ok"}))]

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


class Service:
    """Predicts on one picture after the other; ``present`` requests wait or are answered."""

    def __init__(self, served: Sequence[Served], limits: Limits):
        self.served, self.limits, self.present = served, limits, 0
        self._turn, self._thread = asyncio.Lock(), ThreadPoolExecutor(1)

    async def predict(self, request: Request) -> Response:
        """Answer with the objects on a picture, or with why there are none."""
        busy = self.present >= self.limits.clients
        self.present += not busy
        try:
            return await asyncio.wait_for(self._answer(request, busy), self.limits.seconds)
        except asyncio.TimeoutError:
            text = f"There was no answer within {self.limits.seconds} seconds: try again later."
            raise HTTPException(504, text) from None
        except ClientDisconnect:
            return Response(status_code=400)
        finally:
            self.present -= not busy

    async def _answer(self, request: Request, busy: bool) -> Response:
        # what is refused is read, too: a browser that still sends would not see the answer
        data = await read_body(request, self.limits.bytes, keep=not busy)
        if busy:
            text = f"{self.limits.clients} others are waiting: try again in a few seconds."
            raise HTTPException(503, text, {"Retry-After": "5"})
        check_header(data, self.limits.pixels)
        name = request.query_params.get("name", "").replace("\\", "/")
        name = PurePosixPath(name).name[:200] or "picture"
        await self._turn.acquire()
        try:
            if await request.is_disconnected():
                raise ClientDisconnect
            loop = asyncio.get_running_loop()
            job = loop.run_in_executor(self._thread, self._find, data, name)
        except BaseException:
            self._turn.release()
            raise
        # a prediction cannot be stopped: the next one waits for one whose time is up, too
        job.add_done_callback(lambda done: self._turn.release())
        return JSONResponse(await asyncio.shield(job))

    def _find(self, data: bytes, name: str) -> dict[str, Any]:
        try:
            with NamedTemporaryFile() as file:
                file.write(data)
                file.flush()
                picture = read_picture(Path(file.name))
                if picture.fault:
                    fault = picture.fault.replace(file.name, name)
                    raise HTTPException(422, f"The picture {fault}.")
                size = dict(zip(("width", "height"), picture.loaded, strict=True))
                image = {"id": 1, "file_name": name, **size}
                return {"results": [result_of(each, file.name, image) for each in self.served]}
        except HTTPException:
            raise
        except Exception as error:
            logging.getLogger(__name__).exception("no prediction on %r", name)
            code = 422 if isinstance(error, UserError) else 500
            text = "The detector failed on this picture; the log of the service says why."
            raise HTTPException(code, text) from None


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


def check_header(data: bytes, most: int) -> None:
    """Refuse what is no picture, or has more pixels; nothing is decoded."""
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            pixels = image.width * image.height
    except Image.DecompressionBombError:
        pixels = most + 1
    except Exception:  # whatever a library makes of bytes that are anything
        text = f"The file is no whole picture of a known format ({', '.join(FORMATS)})."
        raise HTTPException(415, text) from None
    if pixels > most:
        raise HTTPException(413, f"The picture has more than {most:,} pixels.")


def result_of(served: Served, path: str, image: dict[str, Any]) -> dict[str, Any]:
    """A detector's objects on a picture: as a COCO file, and the outlines of their masks."""
    start = time.perf_counter()
    objects = served.predict(path)
    seconds = time.perf_counter() - start
    tolerance = max(image["width"], image["height"]) / FINE
    found = [polygons(code, tolerance) if (code := o.get("segmentation")) else [] for o in objects]
    outlines = [[np.round(p, 1).ravel().tolist() for p in parts] for parts in found]
    categories = [{"id": index, "name": name} for index, name in enumerate(served.classes, 1)]
    coco = {"images": [image], "categories": categories, "annotations": objects}
    return {"name": served.name, "seconds": seconds, "coco": coco, "outlines": outlines}
