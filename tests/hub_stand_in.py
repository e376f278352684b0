"""A local server that speaks as much of the Hub's protocol as an upload takes. It isn't the Hub: limits, rights of
organizations, Xet and what the Hub checks of files aren't in it."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_of_the_test"


class Hub(ThreadingHTTPServer):
    """Repositories by name, each with its files, and all requests."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.repositories: dict[str, dict[str, Any]] = {}
        self.stored: dict[str, bytes] = {}  # large files, by their sha256
        self.requests: list[tuple[str, str]] = []
        self.refusing: str | None = None  # the beginning of paths that are answered 403
        self.failing_commits = 0

    def add(self, name: str, *, private: bool = True, files: dict[str, bytes] | None = None) -> None:
        self.repositories[name] = {"private": private, "files": dict(files or {}), "commits": 0}


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self, content: Any = None, status: int = 200, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content or {}).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _handle(self) -> None:
        hub, path = self.server, self.path.partition("?")[0]
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        hub.requests.append((self.command, path))
        if path.startswith("/stored/"):
            hub.stored[path.removeprefix("/stored/")] = body
            return self._answer()
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._answer({"error": "Invalid credentials"}, 401)
        if hub.refusing and path.startswith(hub.refusing):
            return self._answer({"error": "You don't have the rights"}, 403)
        if path == "/api/whoami-v2":
            return self._answer({"type": "user", "name": "me", "auth": {"type": "access_token"}})
        if path == "/api/validate-yaml":
            return self._answer({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            hub.add(name, private=asked["visibility"] == "private", files={".gitattributes": b""})
            return self._answer({"url": f"{hub.address}/{name}", "name": name, "id": name})
        for name, repository in hub.repositories.items():
            if name in path:
                return self._of(name, repository, path, body)
        return self._answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")

    do_GET = do_POST = do_PUT = do_HEAD = _handle  # noqa: N815

    def _of(self, name: str, repository: dict[str, Any], path: str, body: bytes) -> None:
        hub, files = self.server, repository["files"]
        if "/preupload/" in path:
            wanted = [file["path"] for file in json.loads(body)["files"]]
            modes = {path: "lfs" if path.endswith("safetensors") else "regular" for path in wanted}
            answers = [{"path": path, "uploadMode": mode, "shouldIgnore": False} for path, mode in modes.items()]
            return self._answer({"files": answers})
        if path.endswith("/info/lfs/objects/batch"):
            objects = [
                item
                if item["oid"] in hub.stored
                else {**item, "actions": {"upload": {"href": f"{hub.address}/stored/{item['oid']}", "header": {}}}}
                for item in json.loads(body)["objects"]
            ]
            return self._answer({"transfer": "basic", "objects": objects})
        if "/commit/" in path:
            if hub.failing_commits:
                hub.failing_commits -= 1
                return self._answer({"error": "broken for now"}, 400)
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    files[value["path"]] = hub.stored[value["oid"]]
            repository["commits"] += 1
            commit = f"{repository['commits']:040}"
            return self._answer({"commitUrl": f"{hub.address}/{name}/commit/{commit}", "commitOid": commit})
        if "/resolve/" in path:
            file = path.partition("/resolve/")[2].partition("/")[2]
            if file not in files:
                return self._answer({"error": "Entry not found"}, 404, X_Error_Code="EntryNotFound")
            etag = hashlib.sha1(files[file]).hexdigest()
            return self._answer(files[file], ETag=f'"{etag}"', X_Repo_Commit=f"{repository['commits']:040}")
        if "/tree/" in path:
            folder = path.partition("/tree/")[2].partition("/")[2]
            below = {file: content for file, content in files.items() if file.startswith(folder)}
            if not below:
                return self._answer({"error": "Entry not found"}, 404, X_Error_Code="EntryNotFound")
            return self._answer(
                [{"type": "file", "path": file, "size": len(content), "oid": "0"} for file, content in below.items()]
            )
        siblings = [{"rfilename": file} for file in files]
        sha = f"{repository['commits']:040}"
        about = {"id": name, "modelId": name, "private": repository["private"], "siblings": siblings, "sha": sha}
        return self._answer(about)


@contextmanager
def hub_stand_in() -> Iterator[Hub]:
    """A server for as long as the block lasts."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
