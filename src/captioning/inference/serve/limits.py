"""Limits of a server: how much is sent to it, how slowly, from where, and by whom."""

from __future__ import annotations

import asyncio
import hmac
from dataclasses import dataclass
from urllib.parse import urlsplit

import anyio
import h11
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

PUBLIC_PATHS = ("/", "/page.css", "/page.js", "/health", "/docs", "/openapi.json")
PUBLIC_FOLDER = "/static-offline-docs/"
DISCARDED_BODIES = 4  # times the largest body: how much of a rejected one is read


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How large a request may be, and how many there may be at once."""

    body: int = 20_000_000  # bytes of a request
    bodies: int = 200_000_000  # bytes of all requests that are being worked on
    pixels: int = 50_000_000  # of an image, width times height, as its file says
    images: int = 32  # of a request
    queue: int = 256  # images that are being opened, wait, or are captioned
    seconds: float = 60  # for a request to arrive, and then for its answer


class RequestRejected(HTTPException):
    """A request isn't served: the status of the answer, and why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(status, why, {429: {"Retry-After": "1"}, 401: {"WWW-Authenticate": "Bearer"}}.get(status))


class RequestLimiter:
    """Lets a request through to the app, whole, once all of it has arrived; or answers why not."""

    def __init__(self, app: ASGIApp, limits: Limits, token: str | None) -> None:
        self._app, self._limits, self._token = app, limits, token
        self._held = 0  # bytes of the bodies in memory

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve an ASGI request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body, path, headers = bytearray(), scope["path"], Headers(scope=scope)
        try:
            is_public = self._token is None or path in PUBLIC_PATHS or path.startswith(PUBLIC_FOLDER)
            given = headers.get("authorization", "").encode()
            if not is_public and not hmac.compare_digest(given, f"Bearer {self._token}".encode()):
                raise RequestRejected(401, "this server wants its token: Authorization: Bearer TOKEN")
            if (origin := headers.get("origin")) and urlsplit(origin).netloc != headers.get("host"):
                raise RequestRejected(403, "this server answers to its own page, and to programs")
            await self._read(body, headers, receive)
            messages: list[Message] = [{"type": "http.request", "body": bytes(body), "more_body": False}]

            async def replay() -> Message:
                return messages.pop() if messages else await receive()

            await self._app(scope, replay, send)
        except RequestRejected as rejected:
            # More of the request may be under way, so its connection ends.
            closing = {**(rejected.headers or {}), "Connection": "close"}
            await JSONResponse({"detail": rejected.detail}, rejected.status_code, closing)(scope, receive, send)
        finally:
            self._held -= len(body)

    async def _read(self, body: bytearray, headers: Headers, receive: Receive) -> None:
        """Read the body; what is in memory of it is counted from then on.

        Many clients look at the answer only when they have sent all, so what is rejected is read and discarded.
        """
        too_large = RequestRejected(413, f"a request may have {self._limits.body:,} bytes (--max-megabytes)")
        most = DISCARDED_BODIES * self._limits.body
        if int(headers.get("content-length", "0")) > most:  # h11 lets only digits through
            raise too_large
        size, rejected, is_last = 0, None, False
        with anyio.move_on_after(self._limits.seconds) as timeout:
            while not is_last and size <= most:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise RequestRejected(400, "the request ended too early")
                part, is_last = message.get("body", b""), not message.get("more_body", False)
                size += len(part)
                if size > self._limits.body:
                    rejected = rejected or too_large
                elif self._held + len(part) > self._limits.bodies:
                    rejected = rejected or RequestRejected(429, "too much is sent at once; try again later")
                if rejected is None:
                    body += part
                    self._held += len(part)
        if timeout.cancelled_caught:
            raise RequestRejected(408, f"the request took more than {self._limits.seconds:g} s to arrive")
        if rejected is not None:
            raise rejected


class Connection(H11Protocol):
    """uvicorn's, which itself would wait for the head of a request without end."""

    HEAD_SECONDS = 10.0
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._check_head(has_waited=False, is_new=True)

    def connection_lost(self, exc: Exception | None) -> None:
        """End waiting."""
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def _check_head(self, has_waited: bool, is_new: bool = False) -> None:
        """End the connection if it had no whole head now and at the check before."""
        waits = not is_new and self.conn.their_state is h11.IDLE and self.conn.our_state is h11.IDLE
        if waits and has_waited and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
            self.transport.close()
        else:
            self._timer = self.loop.call_later(self.HEAD_SECONDS / 2, self._check_head, waits)
