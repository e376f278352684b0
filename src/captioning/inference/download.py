"""Files from the web, read into memory; where strangers name them, from public addresses alone."""

from __future__ import annotations

import http.client
import ipaddress
import re
import socket
import time
import urllib.error
import urllib.request

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
    """The content of a file on the web, by http or https; raises OSError with the reason alone.

    ``public`` refuses addresses, and redirects to them, that aren't of the public internet: this machine, its network,
    and what clouds have there. It uses no proxy, which would look for names by itself. ``largest`` is in bytes;
    ``seconds`` is for all of it, by default any time without a pause of SILENCE_SECONDS.
    """
    request = urllib.request.Request(url, headers={"User-Agent": "captioning"})  # some refuse Python's own
    opener = urllib.request.build_opener()
    if public:
        opener = urllib.request.OpenerDirector()  # without the handlers of files, FTP, proxies and data
        for name in ("HTTPRedirectHandler", "HTTPErrorProcessor", "HTTPDefaultErrorHandler", "UnknownHandler"):
            opener.add_handler(getattr(urllib.request, name)())
        opener.add_handler(_PublicHandler())
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
    """A connection to an address that was checked; raises NotPublicError if any of the host's isn't public."""
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


class _PublicHTTPSConnection(http.client.HTTPSConnection, _PublicHTTPConnection):
    """TLS on top of what the other class connects."""


class _PublicHandler(urllib.request.AbstractHTTPHandler):
    http_request = https_request = urllib.request.AbstractHTTPHandler.do_request_

    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_PublicHTTPConnection, request)

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_PublicHTTPSConnection, request)
