import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from captioning.inference import download as downloading
from captioning.inference.download import NotPublicError, connect_to_public, download

PRIVATE = (
    "127.0.0.1",
    "127.9.9.9",
    "0.0.0.0",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.0.1",
    "100.64.0.1",  # of a provider
    "169.254.169.254",  # what clouds tell their machines
    "224.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "fe80::1",
    "fc00::1",
    "::ffff:127.0.0.1",
    "64:ff9b::7f00:1",  # 127.0.0.1 by a gateway
    "2002:7f00:1::",  # and by 6to4
    "2130706433",  # 127.0.0.1 as one number
    "0x7f.1",
    "localhost",
)


class _Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/away":
            self.send_response(302)
            self.send_header("Location", f"http://127.0.0.2:{self.server.server_port}/file")
            self.end_headers()
            return
        if self.path == "/to-a-file":
            self.send_response(302)
            self.send_header("Location", "file:///etc/hostname")
            self.end_headers()
            return
        content = b"x" * 1000
        self.send_response(404 if self.path == "/nothing" else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.path == "/short":
            self.wfile.write(content[:10])
            return
        for start in range(0, len(content), 100):
            self.wfile.write(content[start : start + 100])
            time.sleep(0.5 if self.path == "/slow" else 0)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def server():
    server = ThreadingHTTPServer(("0.0.0.0", 0), _Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture
def _this_one_is_public(monkeypatch):
    monkeypatch.setattr(downloading, "_is_public", lambda address: address == "127.0.0.1")


@pytest.mark.parametrize("host", PRIVATE)
def test_what_is_not_public_is_not_connected_to(host):
    with pytest.raises(NotPublicError):
        connect_to_public(host, 80)


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1::", "64:ff9b::5db8:d822"])
def test_what_is_public_is_known_as_such(address):
    assert downloading._is_public(address)


def test_a_name_with_one_private_address_among_public_ones_is_refused(monkeypatch):
    both = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80)) for address in ("93.184.216.34", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)
    with pytest.raises(NotPublicError):
        connect_to_public("example.com", 80)


def test_a_private_address_is_told_as_such(server):
    with pytest.raises(OSError, match="not an address of the public internet"):
        download(f"{server}/file", public=True)


@pytest.mark.usefixtures("_this_one_is_public")
def test_a_public_file_is_fetched(server):
    assert download(f"{server}/file", public=True) == b"x" * 1000


@pytest.mark.usefixtures("_this_one_is_public")
def test_a_redirect_to_a_private_address_is_refused(server):
    with pytest.raises(OSError, match="not an address of the public internet"):
        download(f"{server}/away", public=True)


@pytest.mark.usefixtures("_this_one_is_public")
@pytest.mark.parametrize("way", ["/to-a-file", None])
def test_files_of_this_machine_are_not_read(server, way):
    with pytest.raises(OSError, match=r"can't be|302"):
        download(f"{server}{way}" if way else "file:///etc/hostname", public=True)


@pytest.mark.usefixtures("_this_one_is_public")
def test_no_proxy_is_asked_for_public_files(server, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # where nothing listens
    assert download(f"{server}/file", public=True)


@pytest.mark.parametrize("seconds", [0.2, 1.2])  # of a pause, and of all
def test_a_server_that_sends_slowly_is_left_when_the_time_is_over(server, seconds):
    began = time.monotonic()
    with pytest.raises(OSError, match="takes too long"):
        download(f"{server}/slow", seconds=seconds)
    assert time.monotonic() - began < 4  # of the 5 that all would take


@pytest.mark.parametrize(
    ("path", "says"), [("/file", "larger than"), ("/nothing", "answers 404"), ("/short", "ended too early")]
)
def test_what_can_not_be_had_says_why(server, path, says):
    with pytest.raises(OSError, match=says):
        download(f"{server}{path}", largest=999 if path == "/file" else 10_000)
