import errno
import json
import os
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

from captioning.errors import UserError
from captioning.hub import snapshot

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CLOSED_PORT = "http://127.0.0.1:1"  # refuses at once, as a machine without a network does


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and a Hub that can't be reached."""
    point_hub_to(CLOSED_PORT, monkeypatch)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def point_hub_to(address, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)  # one request less
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    huggingface_hub.close_session()  # it keeps the proxies that it was made with


def lay_out(cache, repository):
    """A repository in the cache as a download leaves it, with one file; returns its folder."""
    folder = cache / repository / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    (cache / repository / "refs").mkdir()
    (cache / repository / "refs" / "main").write_text(COMMIT)
    (folder / "config.json").write_text("{}")
    return folder


def mistake(repo_id="user/name", **settings):
    with pytest.raises(UserError) as caught:
        snapshot(repo_id, setting="model.checkpoint", **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def in_process(code, **environment):
    """What a process of its own prints; an error where it doesn't end."""
    settings = {"NO_PROXY": "127.0.0.1", "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1", **environment}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **settings},
        stdout=subprocess.PIPE,
        text=True,
        timeout=20,
        check=True,
    )
    return done.stdout


# ---------------------------------------------------------------- from the cache


@pytest.mark.parametrize(
    ("repo_type", "repository"), [("model", "models--user--name"), ("dataset", "datasets--user--name")]
)
def test_without_a_network_a_repository_is_found_in_the_cache(cache, repo_type, repository):
    folder = lay_out(cache, repository)
    assert snapshot("user/name", setting="data.path", repo_type=repo_type) == folder


def test_a_model_is_no_data_set_of_the_same_name(cache):
    lay_out(cache, "models--user--name")
    assert "is not in the local cache" in mistake(repo_type="dataset")


def test_the_cache_is_where_the_environment_says(tmp_path):
    folder = lay_out(tmp_path, "models--user--name")
    found = in_process(
        "from captioning.hub import snapshot; print(snapshot('user/name', setting='model.checkpoint'))",
        HF_HUB_CACHE=str(tmp_path),
        HF_ENDPOINT=CLOSED_PORT,
    )
    assert found == f"{folder}\n"


# ---------------------------------------------------------------- neither cached nor to be had


def test_not_to_be_had_names_setting_repository_cache_reason_and_way_out(cache):
    assert mistake(way_out="Without the Hub: do this") == (
        f"model.checkpoint=user/name: is not in the local cache ({cache}) and the Hugging Face Hub can't be reached "
        f"([Errno {errno.ECONNREFUSED}] Connection refused). Without the Hub: do this"
    )


def test_not_to_be_had_is_known_at_once(cache):
    start = time.monotonic()
    mistake()
    assert time.monotonic() - start < 5


def test_offline_mode_is_named_as_the_reason(cache, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    huggingface_hub.close_session()
    assert "offline mode" in mistake()


@pytest.mark.parametrize("name", ["", "user/", "user/name/more", "../name", "/no/such/folder", "~/name", "a name"])
def test_what_is_no_name_of_a_repository_is_said_to_be_none(cache, name):
    assert mistake(name).startswith(
        f"model.checkpoint={name}: is neither a folder on this machine nor a model name of the form USER/NAME"
    )


# ---------------------------------------------------------------- from a Hub that answers


@pytest.fixture
def hub(cache, monkeypatch):
    """Start a Hub on this machine that answers each path as a function says; returns its address."""
    servers = []

    def started(answer):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                status, headers, body = answer(self.path.partition("?")[0])
                self.send_response(status)
                for name, value in [*headers, ("Content-Length", str(len(body)))]:
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            do_HEAD = do_GET  # noqa: N815

            def log_message(self, *args):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(server)
        address = f"http://127.0.0.1:{server.server_port}"
        point_hub_to(address, monkeypatch)
        return address

    yield started
    for server in servers:
        server.shutdown()
        server.server_close()


def with_a_data_set(path):
    """The answers of a Hub with one repository, the data set user/name, in which are two files."""
    files = {"a.txt": b"a caption", "a.bin": b"weights"}
    tree = [{"type": "file", "path": name, "size": len(text), "oid": name} for name, text in files.items()]
    pages = {
        "/api/datasets/user/name": {"id": "user/name", "sha": COMMIT},
        "/api/datasets/user/name/revision/main": {"id": "user/name", "sha": COMMIT},
        f"/api/datasets/user/name/tree/{COMMIT}": tree,
    }
    folder, _, name = path.rpartition("/")
    if path in pages:
        return 200, [("Content-Type", "application/json")], json.dumps(pages[path]).encode()
    if folder == f"/datasets/user/name/resolve/{COMMIT}" and name in files:
        return 200, [("X-Repo-Commit", COMMIT), ("ETag", f'"{name}"')], files[name]
    return 401, [("X-Error-Code", "RepoNotFound")], b""


def downloaded(address, cache, patterns=None):
    """The folder of a data set that a process of its own downloads."""
    code = (
        "from captioning.hub import snapshot\n"
        f"print(snapshot('user/name', setting='data.path', repo_type='dataset', allow_patterns={patterns}))"
    )
    return Path(in_process(code, HF_ENDPOINT=address, HF_HUB_CACHE=str(cache)).strip())


def test_a_revision_is_asked_for_by_its_name(hub):
    asked = []

    def answer(path):
        asked.append(path)
        return ANSWERS["no such revision"]

    hub(answer)
    assert mistake(revision="v9") == (
        "model.checkpoint=user/name (revision v9): has no such branch, tag or commit on the Hugging Face Hub"
    )
    assert asked[0].endswith("/user/name/revision/v9")


def test_what_is_not_cached_is_downloaded(hub, cache):
    folder = downloaded(hub(with_a_data_set), cache)
    assert {file.name: file.read_text() for file in folder.iterdir()} == {"a.txt": "a caption", "a.bin": "weights"}


def test_what_was_downloaded_is_found_without_a_network(hub, cache, monkeypatch):
    folder = downloaded(hub(with_a_data_set), cache)
    point_hub_to(CLOSED_PORT, monkeypatch)
    assert snapshot("user/name", setting="data.path", repo_type="dataset") == folder


def test_only_files_of_the_given_patterns_are_downloaded(hub, cache):
    folder = downloaded(hub(with_a_data_set), cache, ["*.txt"])
    assert [file.name for file in folder.iterdir()] == ["a.txt"]


def test_what_was_downloaded_in_part_is_not_taken_for_the_whole(hub, cache, monkeypatch):
    downloaded(hub(with_a_data_set), cache, ["*.txt"])
    point_hub_to(CLOSED_PORT, monkeypatch)
    assert "is not in the local cache" in mistake(repo_type="dataset")


ANSWERS = {
    "no such repository": (401, [("X-Error-Code", "RepoNotFound")], b""),
    "gated": (403, [("X-Error-Code", "GatedRepo")], b""),
    "no such revision": (404, [("X-Error-Code", "RevisionNotFound")], b""),
    "out of order": (503, [], b""),
    "a hotel's login page": (200, [("Content-Type", "text/html")], b"<html>Welcome</html>"),
}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("no such repository", "is no model on the Hugging Face Hub"),
        ("gated", "is gated: accept its terms"),
        ("out of order", "can't be reached (Server error '503"),
        ("a hotel's login page", "can't be reached (Expecting value"),
    ],
)
def test_what_the_hub_answers_is_said(hub, answer, expected):
    hub(lambda path: ANSWERS[answer])
    assert expected in mistake()


@pytest.mark.parametrize("answer", ANSWERS)
def test_what_is_cached_is_used_whatever_the_hub_answers(hub, cache, answer):
    hub(lambda path: ANSWERS[answer])
    folder = lay_out(cache, "models--user--name")
    assert snapshot("user/name", setting="model.checkpoint") == folder


@pytest.mark.parametrize("cached", [True, False])
def test_a_hub_that_never_answers_is_given_up(tmp_path, cached):
    if cached:
        lay_out(tmp_path, "models--user--name")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        answer = in_process(
            """
from captioning import errors, hub
hub.CONNECT_TIMEOUT_S = 0.5
try:
    print(hub.snapshot("user/name", setting="model.checkpoint").is_dir())
except errors.UserError as error:
    print(error)
""",
            HF_HUB_CACHE=str(tmp_path),
            HF_ENDPOINT=f"http://127.0.0.1:{silent.getsockname()[1]}",
        )
    assert answer == "True\n" if cached else "(timed out)" in answer
