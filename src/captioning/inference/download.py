"""Files from the web, read into memory; where strangers name them, from public addresses alone."""

from __future__ import annotations

import http.client
import ipaddress
import re
import socket
import time
import urllib.error
import urllib.request
from typing import Any

from captioning.errors import reason

SILENCE_SECONDS = 20  # of the server
LARGEST_DOWNLOAD = 100_000_000  # bytes
CHUNK = 1 << 16


def is_url(name: str) -> bool:
    """Whether an image's name is an address on the web."""
    return bool(re.match("https?://", name, re.IGNORECASE))


class NotPublicError(OSError):
    """An address isn't one of the public internet."""


def download(url: str, *, public: bool = False, largest: int = LARGEST_DOWNLOAD, seconds: float | None = None) -> bytes:
    """The content of a file on the web: http or https.

    Args:
        url: the address.
        public: refuse addresses that aren't of the public internet: this machine, its network, and what clouds have
            there. Redirects are refused likewise, and no proxy is used, which would look for names by itself.
        largest: bytes.
        seconds: that it may take in all; by default it may take any time, but not pause for SILENCE_SECONDS.

    Raises:
        OSError: why it can't be had, without its name.
    """
    request = urllib.request.Request(url, headers={"User-Agent": "captioning"})  # some refuse Python's own
    opener = urllib.request.build_opener()
    if public:
        opener = urllib.request.OpenerDirector()  # without the handlers of files, FTP, proxies and data
        for name in ("HTTPRedirectHandler", "HTTPErrorProcessor", "HTTPDefaultErrorHandler", "UnknownHandler"):
            opener.add_handler(getattr(urllib.request, name)())
        opener.add_handler(_PublicHTTP())
        opener.add_handler(_PublicHTTPS())
    deadline = None if seconds is None else time.monotonic() + seconds
    content = bytearray()
    try:
        with opener.open(request, timeout=min(SILENCE_SECONDS, seconds or SILENCE_SECONDS)) as answer:
            while chunk := answer.read1(CHUNK):
                content += chunk
                if len(content) > largest or (deadline is not None and time.monotonic() > deadline):
                    break
            missing = answer.length  # of what it promised
    except Exception as error:  # of the connection, or of a name that is none
        match error:
            case urllib.error.HTTPError():
                line = f"the server answers {error.code} {error.reason}"
            case urllib.error.URLError():
                line = f"can't be reached ({error.reason})"
            case TimeoutError():
                line = "takes too long"
            case _:
                line = f"can't be fetched ({reason(error)})"
        raise OSError(line) from error
    if len(content) > largest:
        raise OSError(f"larger than {largest / 1e6:.0f} MB")
    if missing:
        raise OSError("takes too long" if deadline is not None and time.monotonic() > deadline else "ended too early")
    return bytes(content)


def connect_to_public(host: str, port: int, timeout: float | None = None) -> socket.socket:
    """A connection to a host, all of whose addresses must be public; it goes to one that was checked.

    Raises:
        NotPublicError: one isn't.
        OSError: the host can't be found or reached.
    """
    addresses = [found[4] for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    if not all(_is_public(str(address[0])) for address in addresses):
        raise NotPublicError("not an address of the public internet")
    failure = OSError("has no address")
    for address in addresses:
        try:
            return socket.create_connection((str(address[0]), port), timeout)
        except OSError as error:
            failure = error
    raise failure


def _is_public(address: str) -> bool:
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        # An IPv4 address in disguise: mapped, of 6to4, or of a gateway (NAT64), which would connect to it.
        inner = found.ipv4_mapped or found.sixtofour
        if found in ipaddress.ip_network("64:ff9b::/96"):
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is not None:
            return _is_public(str(inner))
    return found.is_global and not found.is_multicast


class _PublicHTTPConnection(http.client.HTTPConnection):
    def connect(self) -> None:
        self.sock = connect_to_public(self.host, self.port, self.timeout)


class _PublicHTTPSConnection(http.client.HTTPSConnection):
    def connect(self) -> None:
        plain = connect_to_public(self.host, self.port, self.timeout)
        self.sock = self._context.wrap_socket(plain, server_hostname=self.host)  # type: ignore[attr-defined]


class _PublicHTTP(urllib.request.HTTPHandler):
    def http_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(_PublicHTTPConnection, request)


class _PublicHTTPS(urllib.request.HTTPSHandler):
    def https_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(_PublicHTTPSConnection, request)
