"""`captioning serve`: a page and an HTTP API for a captioner."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from captioning.errors import UserError, reason

if TYPE_CHECKING:
    from captioning.inference.serve.limits import Limits

LOOPBACK_NAMES = ["localhost", "127.0.0.1", "[::1]"]
SECONDS_TO_END = 30
TOKEN_VARIABLE = "CAPTIONING_TOKEN"
SHORTEST_TOKEN = 8


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
    say: Callable[[str], None],
) -> None:
    """Serve until told to stop; requests that are under way are answered then.

    Args:
        model: as :meth:`captioning.inference.captioner.Captioner.from_pretrained` takes it.
        host: an address of this machine, or its name.
        port: 0 takes a free one.
        limits: of requests.
        batch_size: images that the model sees at once, at most.
        allow_urls: fetch images by public addresses.
        token: that requests must bring.
        device: by default the best.
        say: told where the server is, once it is there.

    Raises:
        UserError: there is no such model or device.
        OSError: the address can't be listened at.
    """
    import uvicorn

    from captioning.inference.captioner import Captioner
    from captioning.inference.serve.app import Server, make_app
    from captioning.inference.serve.limits import Connection

    with _listening(host, port) as listening:
        captioner = Captioner.from_pretrained(model, device=device)
        server = Server(captioner, name=_name(model), limits=limits, batch_size=batch_size, allow_urls=allow_urls)
        app = make_app(server, token=token, hosts=LOOPBACK_NAMES if _is_loopback(listening) else None)
        address, number = listening.getsockname()[:2]
        say(f"http://{f'[{address}]' if ':' in address else address}:{number}")
        config = uvicorn.Config(
            app,
            http=Connection,
            ws="none",
            log_level="error",  # what strangers send is no news
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=SECONDS_TO_END,
        )
        logging.getLogger("python_multipart").setLevel(logging.ERROR)  # likewise
        with suppress(KeyboardInterrupt):  # which uvicorn raises again once all is answered
            uvicorn.Server(config).run(sockets=[listening])


def _listening(host: str, port: int) -> socket.socket:
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        known = isinstance(error, OSError) and not isinstance(error, socket.gaierror) and error.errno
        why = os.strerror(known) if known else reason(error)
        raise UserError(f"--host {host} --port {port}: can't be listened at ({why})") from error


def _is_loopback(listening: socket.socket) -> bool:
    return ip_address(listening.getsockname()[0]).is_loopback


def _name(model: str) -> str:
    """Without the folders of this machine, which are nobody's business."""
    return model if not Path(model).expanduser().exists() else Path(model).expanduser().resolve().name


def require_packages() -> None:
    """Raise a UserError where the extra isn't installed."""
    if find_spec("fastapi_offline") is None or find_spec("prometheus_client") is None:
        raise UserError("captioning serve needs FastAPI, which isn't installed: pip install -e '.[serve]'")


def read_token(file: Path | None) -> str | None:
    """The token in a file, or else in the environment; None where there is none.

    Raises:
        UserError: the file can't be read, or what is in it can't be in a header.
    """
    source = f"--token-file {file}" if file else TOKEN_VARIABLE
    try:
        token = file.read_text("utf-8").strip() if file else os.environ.get(TOKEN_VARIABLE)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{source}: can't be read ({reason(error)})") from error
    if token is not None and (len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable()):
        raise UserError(f"{source}: a token is one line of {SHORTEST_TOKEN} or more letters, digits and signs")
    return token
