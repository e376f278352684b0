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
    """The content of a file on the web.

    Args:
        url: http or https.
        public: refuse addresses that aren't of the public internet: this machine, its network, and what clouds have
            there. Redirects are refused likewise, and no proxy is used, which would look for names by itself.
        largest: bytes.
        seconds: that it may take in all; by default a server may send as slowly as it likes, but not pause for long.

    Raises:
        OSError: it can't be had; what it says doesn't name the file.
    """
    request = urllib.request.Request(url, headers={"User-Agent": "captioning"})  # some refuse Python's own
    opener = urllib.request.build_opener()
    if public:
        opener = urllib.request.OpenerDirector()  # without the handlers of files, FTP, proxies and data
        for handler in (
            _PublicHTTP(),
            _PublicHTTPS(),
            urllib.request.HTTPRedirectHandler(),
            urllib.request.HTTPErrorProcessor(),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.UnknownHandler(),
        ):
            opener.add_handler(handler)
    deadline = None if seconds is None else time.monotonic() + seconds
    content = bytearray()
    try:
        with opener.open(request, timeout=min(SILENCE_SECONDS, seconds or SILENCE_SECONDS)) as answer:
            while chunk := answer.read1(CHUNK):
                content += chunk
                if len(content) > largest or (deadline is not None and time.monotonic() > deadline):
                    break
            missing = answer.length  # of what it promised
    except urllib.error.HTTPError as error:
        raise OSError(f"the server answers {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise OSError(f"can't be reached ({error.reason})") from error
    except TimeoutError as error:
        raise OSError("takes too long") from error
    except Exception as error:  # of the connection, or of a name that is none
        raise OSError(f"can't be fetched ({reason(error)})") from error
    if len(content) > largest:
        raise OSError(f"larger than {largest / 1e6:.0f} MB")
    if missing:
        raise OSError("takes too long" if deadline is not None and time.monotonic() > deadline else "ended too early")
    return bytes(content)


def connect_to_public(host: str, port: int, timeout: float | None = None) -> socket.socket:
    """A connection to a host, all of whose addresses must be public; it goes to one that was looked at.

    Raises:
        NotPublicError: one isn't.
        OSError: the host can't be found or reached.
    """
    addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for *_, address in addresses:
        if not _is_public(str(address[0])):
            raise NotPublicError("not an address of the public internet")
    failure: OSError | None = None
    for family, kind, protocol, _, address in addresses:
        connection = socket.socket(family, kind, protocol)
        connection.settimeout(timeout)
        try:
            connection.connect(address)
            return connection
        except OSError as error:
            connection.close()
            failure = error
    raise failure or OSError("has no address")


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
