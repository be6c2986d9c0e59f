"""Serve a detector as a local page: drop a picture, move the threshold, compare checkpoints."""

from __future__ import annotations

import argparse
import socket
import sys
from contextlib import suppress
from pathlib import Path

from mmconvnext.cli import common
from mmconvnext.errors import ConfigError, UserError
from mmconvnext.serving import Limits, Served

LOCAL = "127.0.0.1"
CONNECTIONS = 16  # to a client: browsers open some at once, and keep them for a while
MEANINGS = ("of a file", "of a picture", "of a request, waiting too", "at once; all but one wait")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    common.add_config(parser, "model.test_cfg.rcnn.max_per_img=20", "; or a training's work folder")
    add = parser.add_argument
    text = "the detector's; a work folder has one of the best mask AP, or else the last"
    add("checkpoint", nargs="?", help=text)
    other = "another one of the same config, or another work folder, to show beside it"
    add("--compare", metavar="CHECKPOINT", help=other)
    add("--host", default=LOCAL, help="address to listen on; default: %(default)s, this machine")
    add("--port", type=int, default=8000, help="0 for any that is free; default: %(default)s")
    for (name, value), meaning in zip(Limits()._asdict().items(), MEANINGS, strict=True):
        text = f"{name} {meaning}; default: {value}"
        add(f"--max-{name}", type=int, default=value, metavar="N", help=text)


def run(args: argparse.Namespace) -> None:
    """Serve until Ctrl-C; who is there then is answered."""
    try:
        import uvicorn

        from mmconvnext.serving.app import create_app
        from mmconvnext.serving.http import PromptProtocol
    except ModuleNotFoundError as error:
        raise UserError(f"{error}; to get it: pip install 'mmconvnext[serve]'") from error

    limits = Limits(*(getattr(args, f"max_{name}") for name in Limits._fields))
    for name, value in limits._asdict().items():
        if value < 1:
            raise ConfigError(f"--max-{name} {value}: it must be 1 or more")
    listener = listen(args.host, args.port)
    served = [load(args, args.config, args.checkpoint)]
    if args.compare:
        is_run = Path(args.compare).is_dir()
        served.append(
            load(args, *((args.compare, None) if is_run else (args.config, args.compare)))
        )
    if args.host != LOCAL:
        print(f"warning: who reaches {args.host} can use it, without a password", file=sys.stderr)
    host = f"[{args.host}]" if ":" in args.host else args.host
    names = " and ".join(each.name for each in served)
    print(f"{names}: http://{host}:{listener.getsockname()[1]}/ (Ctrl-C stops it)", flush=True)
    app = create_app(served, limits, ("localhost", args.host))
    settings = {"log_level": "warning", "access_log": False, "server_header": False, "ws": "none"}
    settings |= {"lifespan": "off", "timeout_graceful_shutdown": limits.seconds}
    settings |= {"http": PromptProtocol, "limit_concurrency": CONNECTIONS * limits.clients}
    with suppress(KeyboardInterrupt):  # that uvicorn raises again, when all is closed
        uvicorn.Server(uvicorn.Config(app, **settings)).run(sockets=[listener])


def listen(host: str, port: int) -> socket.socket:
    """Take a port, before a detector is loaded in vain."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise UserError(f"--host {host} --port {port}: {error}; choose others") from error


def load(args: argparse.Namespace, config: str, checkpoint: str | None) -> Served:
    """Load a detector of a work folder, or of a config and a checkpoint."""
    from mmconvnext.engine.run_dir import find_detector
    from mmconvnext.inference.detector import Detector

    config, checkpoint = find_detector(config, checkpoint)
    options = argparse.Namespace(**{**vars(args), "config": config})
    detector = Detector(common.read_config(options), checkpoint)
    name, classes, palette = Path(checkpoint).stem, detector.classes, detector.palette
    return Served(name, lambda path: detector(path).coco(), classes, palette)
