"""`captioning serve`: a page and an HTTP API for a captioner."""

from __future__ import annotations

import logging
import os
import socket
from contextlib import suppress
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from captioning.errors import UserError, reason

if TYPE_CHECKING:
    from captioning.inference.serve.limits import Limits

LOOPBACK_NAMES = ["localhost", "127.0.0.1", "[::1]"]
SHUTDOWN_SECONDS = 30
TOKEN_VARIABLE = "CAPTIONING_TOKEN"
MIN_TOKEN_LENGTH = 8


def serve(
    model: str,
    *,
    host: str,
    port: int,
    limits: Limits,
    batch_size: int,
    allow_urls: bool,
    token: str | None,
    device: str | None,
) -> None:
    """Print the address, and serve until a signal; requests under way are answered then. Raises UserError."""
    import uvicorn

    from captioning.inference.captioner import Captioner
    from captioning.inference.serve.app import Server, make_app
    from captioning.inference.serve.limits import Connection
    from captioning.terminal import quiet_transformers

    quiet_transformers()
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listening = socket.create_server(address[:2], family=family, backlog=2048)
    except OSError as error:
        line = reason(error).partition(" (while")[0]  # the address follows, which this line begins with
        raise UserError(f"--host {host} --port {port}: {line}; --port 0 takes a free one") from error
    with listening:
        captioner = Captioner.from_pretrained(model, device=device)
        path = Path(model).expanduser()
        name = path.resolve().name if path.exists() else model  # folders of this machine stay private
        server = Server(captioner, name=name, limits=limits, batch_size=batch_size, allow_urls=allow_urls)
        address, number = listening.getsockname()[:2]
        app = make_app(server, token=token, hosts=LOOPBACK_NAMES if ip_address(address).is_loopback else None)
        print(f"http://{f'[{address}]' if ':' in address else address}:{number}", flush=True)
        config = uvicorn.Config(
            app, http=Connection, ws="none", log_level="error", access_log=False, server_header=False
        )
        config.timeout_graceful_shutdown = SHUTDOWN_SECONDS
        logging.getLogger("python_multipart").setLevel(logging.ERROR)  # client errors aren't logged
        with suppress(KeyboardInterrupt):  # which uvicorn raises again once all is answered
            uvicorn.Server(config).run(sockets=[listening])


def require_packages() -> None:
    """Raises UserError where the extra isn't installed."""
    if find_spec("fastapi_offline") is None or find_spec("prometheus_client") is None:
        raise UserError("captioning serve needs FastAPI, which isn't installed: pip install -e '.[serve]'")


def read_token(file: Path | None) -> str | None:
    """The token in a file, or else in the environment. Raises UserError where a header can't hold it."""
    source = f"--token-file {file}" if file else TOKEN_VARIABLE
    if file and not os.access(file, os.R_OK):
        raise UserError(f"{source}: no such file, or it can't be read")
    token = file.read_text("utf-8", "replace").strip() if file else os.environ.get(TOKEN_VARIABLE)
    if token is not None and (len(token) < MIN_TOKEN_LENGTH or not token.isascii() or not token.isprintable()):
        raise UserError(f"{source}: a token is one line of {MIN_TOKEN_LENGTH} or more letters, digits and signs")
    return token
