"""Serving until a signal: the options that every command for it has, and uvicorn's settings."""

from __future__ import annotations

import argparse
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress

from mmconvnext.errors import ConfigError, UserError
from mmconvnext.serving import Limits, Served

LOCAL = "127.0.0.1"
CONNECTIONS = 16  # to a client: browsers open some at once, and keep them for a while
MEANINGS = (
    "of a file",
    "of a picture",
    "of a request, waiting too",
    "at once; all but those predicted on wait",
    "of pictures of one size that are predicted on together",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the address, the names that it is asked by, and the limits."""
    add = parser.add_argument
    add("--host", default=LOCAL, help="address to listen on; default: %(default)s, this machine")
    add("--port", type=int, default=8000, help="0 for any that is free; default: %(default)s")
    names = "names that clients may ask it by, beside localhost and IP addresses"
    add("--allowed-hosts", nargs="+", default=[], metavar="NAME", help=names)
    for (name, value), meaning in zip(Limits()._asdict().items(), MEANINGS, strict=True):
        text = f"{name} {meaning}; default: {value}"
        add(f"--max-{name}", type=int, default=value, metavar="N", help=text)


def run(args: argparse.Namespace, load: Callable[[], Sequence[Served]]) -> None:
    """Serve until SIGINT (Ctrl-C) or SIGTERM; who is there then is answered.

    Args:
        args: of :func:`add_arguments`.
        load: gives the detectors, when it is known that the service can be had.
    """
    try:
        import uvicorn

        from mmconvnext.serving.app import create_app
        from mmconvnext.serving.http import PromptProtocol
    except ModuleNotFoundError as error:
        raise UserError(
            f"{error}; to get it: pip install 'mmconvnext[serve]', or "
            "'mmconvnext-runtime[serve]' where that is installed"
        ) from error

    limits = Limits(*(getattr(args, f"max_{name}") for name in Limits._fields))
    for name, value in limits._asdict().items():
        if value < 1:
            raise ConfigError(f"--max-{name} {value}: it must be 1 or more")
    listener = listen(args.host, args.port)
    served = load()
    if args.host != LOCAL:
        print(f"warning: who reaches {args.host} can use it, without a password", file=sys.stderr)
    host = f"[{args.host}]" if ":" in args.host else args.host
    names = " and ".join(each.name for each in served)
    print(f"{names}: http://{host}:{listener.getsockname()[1]}/ (Ctrl-C stops it)", flush=True)
    app = create_app(served, limits, ("localhost", args.host, *args.allowed_hosts))
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
