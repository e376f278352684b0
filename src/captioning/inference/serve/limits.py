"""What a server bears: how much is sent to it, how slowly, from where, and by whom."""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import anyio
import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN_PATHS = ("/", "/page.css", "/page.js", "/health", "/docs", "/openapi.json")  # hold nothing of anybody
OPEN_FOLDERS = ("/static-offline-docs/",)
READ_ON = 4  # times the largest body, of one that is refused


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a request may be, and how many there may be at once.

    Args:
        body: bytes of a request.
        bodies: bytes of all requests that are being worked on.
        pixels: of an image, width times height, as its file says.
        images: of a request.
        queue: images that are being opened, wait, or are captioned.
        seconds: for a request to come, and then for its answer.
    """

    body: int = 20_000_000
    bodies: int = 200_000_000
    pixels: int = 50_000_000
    images: int = 32
    queue: int = 256
    seconds: float = 60


class RequestRejected(Exception):  # noqa: N818  not an error of ours
    """A request isn't served: the status of the answer, and why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class RequestLimiter:
    """Lets a request through to the app, whole, once all of it has come; or answers why not.

    Args:
        app: gets requests whose body is in memory.
        limits: of size and time.
        token: that a request must bring; None asks for none.
    """

    def __init__(self, app: App, limits: Limits, token: str | None) -> None:
        self._app, self._limits, self._token = app, limits, token
        self._held = 0  # bytes of the bodies in memory

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, as ASGI has it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = bytearray()
        try:
            headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
            self._require_token(scope["path"], headers)
            _require_own_page(headers)
            await self._read(body, headers, receive)
            await self._app(scope, _whole(bytes(body), receive), send)
        except RequestRejected as refused:
            await answer(send, refused.status, str(refused))
        finally:
            self._held -= len(body)

    def _require_token(self, path: str, headers: dict[bytes, str]) -> None:
        if self._token is None or path in OPEN_PATHS or path.startswith(OPEN_FOLDERS):
            return
        given = headers.get(b"authorization", "")
        if not hmac.compare_digest(given.encode(), f"Bearer {self._token}".encode()):
            raise RequestRejected(401, "this server wants its token: Authorization: Bearer TOKEN")

    async def _read(self, body: bytearray, headers: dict[bytes, str], receive: Receive) -> None:
        """Read the body; what is in memory of it is counted from then on.

        Many clients look at the answer only when they have sent all, so what is refused is read on, and thrown away.
        """
        if int(headers.get(b"content-length", "0")) > READ_ON * self._limits.body:  # h11 lets only digits through
            raise self._too_large()
        come, refused = 0, None
        try:
            with anyio.fail_after(self._limits.seconds):
                is_last = False
                while not is_last and come <= READ_ON * self._limits.body:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise RequestRejected(400, "the request ended too early")
                    part, is_last = message.get("body", b""), not message.get("more_body", False)
                    come += len(part)
                    refused = refused or self._refusal(come, len(part))
                    if refused is None:
                        body += part
                        self._held += len(part)
        except TimeoutError:
            raise RequestRejected(408, f"the request took more than {self._limits.seconds:g} s to come") from None
        if refused is not None:
            raise refused

    def _refusal(self, come: int, more: int) -> RequestRejected | None:
        if come > self._limits.body:
            return self._too_large()
        if self._held + more > self._limits.bodies:
            return RequestRejected(429, "too much is sent to this server at once; try again later")
        return None

    def _too_large(self) -> RequestRejected:
        return RequestRejected(413, f"a request may have {self._limits.body:,} bytes (--max-megabytes)")


def _require_own_page(headers: dict[bytes, str]) -> None:
    """Browsers say which page a request is from, and other sites' pages have no business here."""
    origin = headers.get(b"origin")
    if origin is not None and urlsplit(origin).netloc != headers.get(b"host"):
        raise RequestRejected(403, "this server answers to its own page, and to programs")


def _whole(body: bytes, receive: Receive) -> Receive:
    first: list[MutableMapping[str, Any]] = [{"type": "http.request", "body": body, "more_body": False}]

    async def received() -> MutableMapping[str, Any]:
        return first.pop() if first else await receive()

    return received


async def answer(send: Send, status: int, why: str) -> None:
    """Answer a request in JSON, as the app answers mistakes, and end its connection: there may be more of it."""
    content = json.dumps({"detail": why}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(content)).encode()),
        (b"connection", b"close"),
        *([(b"retry-after", b"1")] if status == 429 else []),
        *([(b"www-authenticate", b"Bearer")] if status == 401 else []),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


class Connection(H11Protocol):
    """uvicorn's, which itself would wait for the head of a request without end."""

    HEAD_SECONDS = 10.0
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._look_later(has_waited=False)

    def connection_lost(self, exc: Exception | None) -> None:
        """End waiting."""
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def _look_later(self, *, has_waited: bool) -> None:
        self._timer = self.loop.call_later(self.HEAD_SECONDS / 2, self._look, has_waited)

    def _look(self, has_waited: bool) -> None:
        """End the connection if it had no whole head now and when it was looked at before."""
        waits = self.conn.their_state is h11.IDLE and self.conn.our_state is h11.IDLE
        if waits and has_waited and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
            self.transport.close()
        else:
            self._look_later(has_waited=waits)
